//! Each kind of value in the dialect.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Head, Input, Item, Shape, Wire, malformed, unexpected, write_array, write_map, write_nil, write_raw,
};
use crate::error::Result;
use crate::types::{Cid, Multiaddr, PeerId, Timestamp};

/// Seconds of Go's zero time, 0001-01-01T00:00:00Z.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

impl Wire for i64 {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.head()? {
            Head::Nil => Ok(0),
            Head::Signed(number) => Ok(number),
            Head::Unsigned(number) => {
                Self::try_from(number).map_err(|_| malformed("msgpack: a number over 63 bits"))
            }
            Head::Float(number) if number.fract() == 0.0 && number.abs() <= 9.0e15 => Ok(number as Self),
            other => Err(unexpected("a number", other)),
        }
    }
    fn write(&self, to: &mut Vec<u8>) {
        let number = *self;
        if (-32..=127).contains(&number) {
            to.push(number as u8);
        } else if let Ok(number) = i8::try_from(number) {
            to.extend_from_slice(&[0xd0, number as u8]);
        } else if let Ok(number) = i16::try_from(number) {
            to.push(0xd1);
            to.extend_from_slice(&number.to_be_bytes());
        } else if let Ok(number) = i32::try_from(number) {
            to.push(0xd2);
            to.extend_from_slice(&number.to_be_bytes());
        } else {
            to.push(0xd3);
            to.extend_from_slice(&number.to_be_bytes());
        }
    }
    fn is_zero(&self) -> bool {
        *self == 0
    }
}

impl Wire for u64 {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.head()? {
            Head::Nil => Ok(0),
            Head::Unsigned(number) => Ok(number),
            Head::Signed(number) => {
                Self::try_from(number).map_err(|_| malformed("msgpack: a number below zero"))
            }
            Head::Float(number) if number.fract() == 0.0 && (0.0..=9.0e15).contains(&number) => {
                Ok(number as Self)
            }
            other => Err(unexpected("a number", other)),
        }
    }
    fn write(&self, to: &mut Vec<u8>) {
        let number = *self;
        if number <= 127 {
            to.push(number as u8);
        } else if let Ok(number) = u8::try_from(number) {
            to.extend_from_slice(&[0xcc, number]);
        } else if let Ok(number) = u16::try_from(number) {
            to.push(0xcd);
            to.extend_from_slice(&number.to_be_bytes());
        } else if let Ok(number) = u32::try_from(number) {
            to.push(0xce);
            to.extend_from_slice(&number.to_be_bytes());
        } else {
            to.push(0xcf);
            to.extend_from_slice(&number.to_be_bytes());
        }
    }
    fn is_zero(&self) -> bool {
        *self == 0
    }
}

impl Wire for f64 {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.head()? {
            Head::Nil => Ok(0.0),
            Head::Float(number) => Ok(number),
            Head::Unsigned(number) => Ok(number as Self),
            Head::Signed(number) => Ok(number as Self),
            other => Err(unexpected("a float", other)),
        }
    }
    fn write(&self, to: &mut Vec<u8>) {
        to.push(0xcb);
        to.extend_from_slice(&self.to_be_bytes());
    }
    fn is_zero(&self) -> bool {
        *self == 0.0
    }
}

impl Wire for bool {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.head()? {
            Head::Nil => Ok(false),
            Head::Bool(value) => Ok(value),
            Head::Unsigned(0) => Ok(false),
            Head::Unsigned(1) => Ok(true),
            other => Err(unexpected("a bool", other)),
        }
    }
    fn write(&self, to: &mut Vec<u8>) {
        to.push(if *self { 0xc3 } else { 0xc2 });
    }
    fn is_zero(&self) -> bool {
        !self
    }
}

impl Wire for String {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        Ok(Self::read_item(input)?.unwrap_or_default())
    }
    fn write(&self, to: &mut Vec<u8>) {
        write_raw(self.as_bytes(), to);
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Item for String {
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
        // Go's strings are bytes; what is no UTF-8 is shown as well as it can be.
        Ok(input.raw("text")?.map(|bytes| Self::from_utf8_lossy(bytes).into_owned()))
    }
    fn write_item(&self, to: &mut Vec<u8>) {
        self.write(to);
    }
}

impl Wire for Bytes {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.head()? {
            Head::Nil => Ok(Self::new()),
            Head::Raw(length) => Ok(Self::copy_from_slice(input.take(length)?)),
            Head::Array(length) => {
                let length = input.count(length)?;
                let byte =
                    |_| u8::try_from(u64::read(input)?).map_err(|_| malformed("msgpack: a byte over 255"));
                (0..length).map(byte).collect::<Result<Vec<u8>>>().map(Self::from)
            }
            other => Err(unexpected("bytes", other)),
        }
    }
    fn write(&self, to: &mut Vec<u8>) {
        write_raw(self, to);
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Item for PeerId {
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
        let Some(bytes) = input.raw("a peer id")? else { return Ok(None) };
        Self::from_bytes(bytes).map(Some).map_err(|source| malformed("invalid peer id").with_source(source))
    }
    fn write_item(&self, to: &mut Vec<u8>) {
        write_raw(&self.to_bytes(), to);
    }
}

impl Item for Cid {
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
        let Some(bytes) = input.raw("a cid")? else { return Ok(None) };
        let cid = Self::try_from(bytes).map_err(|source| malformed("invalid cid").with_source(source))?;
        // The parser does not look at what comes after it.
        if cid.encoded_len() == bytes.len() { Ok(Some(cid)) } else { Err(malformed("invalid cid")) }
    }
    fn write_item(&self, to: &mut Vec<u8>) {
        write_raw(&self.to_bytes(), to);
    }
}

impl Item for Multiaddr {
    /// An address of a kind that is not known here is none: a newer peer that has one is still a peer.
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
        Ok(input.raw("an address")?.and_then(|bytes| Self::try_from(bytes.to_vec()).ok()))
    }
    fn write_item(&self, to: &mut Vec<u8>) {
        write_raw(self.as_ref(), to);
    }
}

impl Item for Timestamp {
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
        const TIMESTAMP_EXTENSION: i8 = -1;
        let invalid = || malformed("invalid time");
        let bytes = match input.head()? {
            Head::Nil => return Ok(None),
            Head::Raw(length) | Head::Extension(TIMESTAMP_EXTENSION, length) => input.take(length)?,
            other => return Err(unexpected("a time", other)),
        };
        let (seconds, nanoseconds) = match bytes.len() {
            4 => (i64::from(u32::from_be_bytes(bytes.try_into().map_err(|_| invalid())?)), 0),
            8 => {
                let both = u64::from_be_bytes(bytes.try_into().map_err(|_| invalid())?);
                ((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32)
            }
            12 => {
                let (nanoseconds, seconds) = bytes.split_at(4);
                (
                    i64::from_be_bytes(seconds.try_into().map_err(|_| invalid())?),
                    u32::from_be_bytes(nanoseconds.try_into().map_err(|_| invalid())?),
                )
            }
            _ => return Err(invalid()),
        };
        if nanoseconds >= 1_000_000_000 {
            return Err(invalid());
        }
        if seconds == GO_ZERO_SECONDS && nanoseconds == 0 {
            return Ok(None);
        }
        let whole = Self::from_unix_seconds(seconds);
        Ok(Some(whole + std::time::Duration::from_nanos(u64::from(nanoseconds))))
    }
    fn write_item(&self, to: &mut Vec<u8>) {
        let (seconds, nanoseconds) = (self.unix_seconds(), self.subsecond_nanoseconds());
        match (u32::try_from(seconds), u64::try_from(seconds)) {
            (Ok(seconds), _) if nanoseconds == 0 => write_raw(&seconds.to_be_bytes(), to),
            (_, Ok(seconds)) if seconds < 1 << 34 => {
                write_raw(&(u64::from(nanoseconds) << 34 | seconds).to_be_bytes(), to);
            }
            _ => {
                let mut bytes = [0; 12];
                bytes[..4].copy_from_slice(&nanoseconds.to_be_bytes());
                bytes[4..].copy_from_slice(&seconds.to_be_bytes());
                write_raw(&bytes, to);
            }
        }
    }
}

impl<T: Item> Wire for Option<T> {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        T::read_item(input)
    }
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Some(item) => item.write_item(to),
            None => write_nil(to),
        }
    }
    fn is_zero(&self) -> bool {
        self.is_none()
    }
}

/// A list, or nil, which JSON shows differently.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::rpc) struct List<T>(pub(in crate::rpc) Option<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> List<T> {
    pub(in crate::rpc) fn into_vec(self) -> Vec<T> {
        self.0.unwrap_or_default()
    }
}

impl<T> From<Vec<T>> for List<T> {
    /// An empty one is nil, which costs nothing.
    fn from(items: Vec<T>) -> Self {
        Self(Some(items).filter(|items| !items.is_empty()))
    }
}

impl<T: Item> Wire for List<T> {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        let length = match input.head()? {
            Head::Nil => return Ok(Self(None)),
            Head::Array(length) => input.count(length)?,
            other => return Err(unexpected("a list", other)),
        };
        let mut items = Vec::new();
        for _ in 0..length {
            items.extend(T::read_item(input)?);
        }
        Ok(Self(Some(items)))
    }
    fn write(&self, to: &mut Vec<u8>) {
        match &self.0 {
            None => write_nil(to),
            Some(items) => {
                write_array(items.len(), to);
                items.iter().for_each(|item| item.write_item(to));
            }
        }
    }
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }
}

/// Keys are text; nil and empty are one.
impl<T: Item> Wire for BTreeMap<String, T> {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        let length = match input.head()? {
            Head::Nil => return Ok(Self::new()),
            Head::Map(length) => input.count(length)?,
            other => return Err(unexpected("a map", other)),
        };
        let mut map = Self::new();
        for _ in 0..length {
            let key = String::read(input)?;
            if let Some(value) = T::read_item(input)? {
                map.insert(key, value);
            }
        }
        Ok(map)
    }
    fn write(&self, to: &mut Vec<u8>) {
        write_map(self.len(), to);
        for (key, value) in self {
            key.write(to);
            value.write_item(to);
        }
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

/// `struct{}`: what calls without parameters or results carry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::rpc) struct Empty;

impl Wire for Empty {
    fn read(input: &mut Input<'_>) -> Result<Self> {
        match input.shape()? {
            Shape::Nil => {}
            Shape::Map(entries) => {
                for _ in 0..2 * entries {
                    input.skip()?;
                }
            }
            Shape::Array(elements) => {
                for _ in 0..elements {
                    input.skip()?;
                }
            }
        }
        Ok(Self)
    }
    fn write(&self, to: &mut Vec<u8>) {
        write_map(0, to);
    }
    fn is_zero(&self) -> bool {
        true
    }
}
