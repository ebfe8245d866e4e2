//! Go's msgpack dialect: what the reference's codec writes, and the rest of what it reads.
//!
//! Text and bytes are both written as the old specification's *raw* (`fixstr`, `str16`, `str32`), never as `str8` or
//! `bin`; signed numbers in signed widths; times as the payload of the timestamp extension without its head. Absent, nil
//! and empty mean the same. No crate writes or reads that, and every length here comes from another peer, so this is our
//! own: nothing is allocated for a length that is only claimed, and the items of one object are counted.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Multiaddr, PeerId, Timestamp};

/// Deepest nesting of arrays and maps in one object.
pub(super) const DEPTH_MAX: usize = 64;
/// Most array elements and map entries in one object, all of its lists together.
pub(super) const ITEMS_MAX: usize = 262_144;
/// Seconds of Go's zero time, 0001-01-01T00:00:00Z.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

pub(super) fn malformed(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what).component("rpc")
}

/// A msgpack value's head: what it is, and the length or number in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Head {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Text and bytes alike; this many bytes follow.
    Raw(usize),
    Array(usize),
    Map(usize),
    /// Type and length; this many bytes follow.
    Extension(i8, usize),
}

/// Reads one head from the start of `bytes`, with its own length; none when more bytes are needed.
///
/// # Errors
/// `Corrupt` for the one byte that means nothing.
pub(super) fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    let Some((&marker, rest)) = bytes.split_first() else { return Ok(None) };
    macro_rules! number {
        ($type:ty) => {
            match rest.first_chunk() {
                Some(chunk) => <$type>::from_be_bytes(*chunk),
                None => return Ok(None),
            }
        };
    }
    macro_rules! with_length {
        ($type:ty, $head:expr) => {
            ($head(number!($type) as usize), 1 + size_of::<$type>())
        };
    }
    macro_rules! extension {
        ($type:ty) => {{
            let length = number!($type) as usize;
            let Some(kind) = rest.get(size_of::<$type>()) else { return Ok(None) };
            (Head::Extension(*kind as i8, length), 2 + size_of::<$type>())
        }};
    }
    let fixed_extension = |length: usize| rest.first().map(|kind| (Head::Extension(*kind as i8, length), 2));
    Ok(Some(match marker {
        0x00..=0x7f => (Head::Unsigned(u64::from(marker)), 1),
        0x80..=0x8f => (Head::Map(usize::from(marker & 0x0f)), 1),
        0x90..=0x9f => (Head::Array(usize::from(marker & 0x0f)), 1),
        0xa0..=0xbf => (Head::Raw(usize::from(marker & 0x1f)), 1),
        0xc0 => (Head::Nil, 1),
        0xc1 => return Err(malformed("msgpack byte c1, which means nothing")),
        0xc2 => (Head::Bool(false), 1),
        0xc3 => (Head::Bool(true), 1),
        0xc4 | 0xd9 => with_length!(u8, Head::Raw),
        0xc5 | 0xda => with_length!(u16, Head::Raw),
        0xc6 | 0xdb => with_length!(u32, Head::Raw),
        0xc7 => extension!(u8),
        0xc8 => extension!(u16),
        0xc9 => extension!(u32),
        0xca => (Head::Float(f64::from(number!(f32))), 5),
        0xcb => (Head::Float(number!(f64)), 9),
        0xcc => (Head::Unsigned(u64::from(number!(u8))), 2),
        0xcd => (Head::Unsigned(u64::from(number!(u16))), 3),
        0xce => (Head::Unsigned(u64::from(number!(u32))), 5),
        0xcf => (Head::Unsigned(number!(u64)), 9),
        0xd0 => (Head::Signed(i64::from(number!(i8))), 2),
        0xd1 => (Head::Signed(i64::from(number!(i16))), 3),
        0xd2 => (Head::Signed(i64::from(number!(i32))), 5),
        0xd3 => (Head::Signed(number!(i64)), 9),
        0xd4 => return Ok(fixed_extension(1)),
        0xd5 => return Ok(fixed_extension(2)),
        0xd6 => return Ok(fixed_extension(4)),
        0xd7 => return Ok(fixed_extension(8)),
        0xd8 => return Ok(fixed_extension(16)),
        0xdc => with_length!(u16, Head::Array),
        0xdd => with_length!(u32, Head::Array),
        0xde => with_length!(u16, Head::Map),
        0xdf => with_length!(u32, Head::Map),
        0xe0..=0xff => (Head::Signed(i64::from(marker as i8)), 1),
    }))
}

/// One object being read.
#[derive(Debug)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
    /// Elements and entries that may still come.
    items: usize,
}

/// What a struct comes as.
pub(super) enum Shape {
    Nil,
    /// By name.
    Map(usize),
    /// By position.
    Array(usize),
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, items: ITEMS_MAX }
    }

    fn head(&mut self) -> Result<Head> {
        let (head, length) = head(self.rest)?.ok_or_else(|| malformed("msgpack object that breaks off"))?;
        self.rest = &self.rest[length..];
        Ok(head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| malformed("msgpack object that breaks off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn count(&mut self, items: usize) -> Result<usize> {
        self.items = self
            .items
            .checked_sub(items)
            .ok_or_else(|| malformed(format!("msgpack object with more than {ITEMS_MAX} items")))?;
        Ok(items)
    }

    /// The bytes of text or bytes; none for nil.
    fn raw(&mut self, what: &str) -> Result<Option<&'a [u8]>> {
        match self.head()? {
            Head::Nil => Ok(None),
            Head::Raw(length) => self.take(length).map(Some),
            other => Err(unexpected(what, other)),
        }
    }

    pub(super) fn shape(&mut self) -> Result<Shape> {
        match self.head()? {
            Head::Nil => Ok(Shape::Nil),
            Head::Map(entries) => Ok(Shape::Map(self.count(entries)?)),
            Head::Array(elements) => Ok(Shape::Array(self.count(elements)?)),
            other => Err(unexpected("a struct", other)),
        }
    }

    /// The name of a field; none for a key that is no text.
    pub(super) fn key(&mut self) -> Result<Option<&'a [u8]>> {
        let before = self.rest;
        if let Head::Raw(length) = self.head()? {
            return self.take(length).map(Some);
        }
        self.rest = before;
        self.skip()?;
        Ok(None)
    }

    /// Passes over one value.
    pub(super) fn skip(&mut self) -> Result<()> {
        let mut scan = Scan::default();
        match scan.advance(self.rest, usize::MAX)? {
            Some(length) => self.take(length).map(drop),
            None => Err(malformed("msgpack object that breaks off")),
        }
    }
}

fn unexpected(wanted: &str, found: Head) -> Error {
    let found = match found {
        Head::Nil => "nil",
        Head::Bool(_) => "a bool",
        Head::Unsigned(_) | Head::Signed(_) => "a number",
        Head::Float(_) => "a float",
        Head::Raw(_) => "text",
        Head::Array(_) => "an array",
        Head::Map(_) => "a map",
        Head::Extension(..) => "an extension",
    };
    malformed(format!("msgpack: expected {wanted}, found {found}"))
}

/// Finds the end of an object whose bytes come in pieces, without looking at any byte twice.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Bytes seen.
    at: usize,
    /// Values still to come on each level.
    open: Vec<usize>,
    started: bool,
}

impl Scan {
    /// Goes on with all bytes of the object that are there, those seen before included. Gives the object's length once
    /// all of it is there.
    ///
    /// # Errors
    /// `Corrupt` for what is no msgpack, is longer than `bytes_max`, says that it will be, or nests too deep.
    pub(super) fn advance(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>> {
        let too_long = || malformed(format!("msgpack object of more than {bytes_max} bytes"));
        loop {
            if self.started && self.open.is_empty() {
                return if self.at > bytes_max {
                    Err(too_long())
                } else if self.at <= bytes.len() {
                    Ok(Some(self.at))
                } else {
                    Ok(None)
                };
            }
            let Some(rest) = bytes.get(self.at..) else { return Ok(None) };
            let Some((head, length)) = head(rest)? else {
                return if bytes.len() > bytes_max { Err(too_long()) } else { Ok(None) };
            };
            self.at += length;
            self.started = true;
            if let Some(left) = self.open.last_mut() {
                *left -= 1;
            }
            let values = match head {
                Head::Raw(length) | Head::Extension(_, length) => {
                    self.at = self.at.saturating_add(length);
                    0
                }
                Head::Array(elements) => elements,
                Head::Map(entries) => entries.saturating_mul(2),
                _ => 0,
            };
            // Each value takes a byte at least.
            if self.at.saturating_add(values) > bytes_max {
                return Err(too_long());
            }
            if values > 0 {
                self.open.push(values);
                if self.open.len() > DEPTH_MAX {
                    return Err(malformed(format!("msgpack object nested deeper than {DEPTH_MAX}")));
                }
            }
            while self.open.last() == Some(&0) {
                self.open.pop();
            }
        }
    }
}

/// A field of a struct, or the whole of an argument or reply.
pub(super) trait Wire: Default {
    /// Reads it; nil gives the default.
    fn read(input: &mut Input<'_>) -> Result<Self>;
    fn write(&self, to: &mut Vec<u8>);
    /// Whether it can be left out.
    fn is_zero(&self) -> bool;
}

/// What lists, maps and options are made of.
pub(super) trait Item: Sized {
    /// Reads one; none for nil, and for what cannot be used but does no harm.
    fn read_item(input: &mut Input<'_>) -> Result<Option<Self>>;
    fn write_item(&self, to: &mut Vec<u8>);
}

/// Reads one object. What follows it is not looked at.
pub(super) fn decode<T: Wire>(bytes: &[u8]) -> Result<T> {
    T::read(&mut Input::new(bytes))
}

pub(super) fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    bytes
}

pub(super) fn write_nil(to: &mut Vec<u8>) {
    to.push(0xc0);
}

pub(super) fn write_raw(bytes: &[u8], to: &mut Vec<u8>) {
    match bytes.len() {
        length @ 0..=31 => to.push(0xa0 | length as u8),
        length @ 32..=0xffff => {
            to.push(0xda);
            to.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            to.push(0xdb);
            to.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    to.extend_from_slice(bytes);
}

fn write_length(length: usize, fixed: u8, wide: u8, to: &mut Vec<u8>) {
    match length {
        0..=15 => to.push(fixed | length as u8),
        16..=0xffff => {
            to.push(wide);
            to.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            to.push(wide + 1);
            to.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

pub(super) fn write_array(length: usize, to: &mut Vec<u8>) {
    write_length(length, 0x90, 0xdc, to);
}

pub(super) fn write_map(length: usize, to: &mut Vec<u8>) {
    write_length(length, 0x80, 0xde, to);
}

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
pub(super) struct List<T>(pub(super) Option<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> List<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
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
pub(super) struct Empty;

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

/// Declares a struct by its keys on the wire, in the reference's order. Zero fields are left out, but for those marked
/// `always`.
macro_rules! wire_struct {
    (@left_out $value:expr) => { $crate::rpc::msgpack::Wire::is_zero($value) };
    (@left_out $value:expr, always) => { false };
    ($(#[$doc:meta])* $name:ident { $($key:literal $field:ident: $type:ty $(, $always:ident)?;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        impl $crate::rpc::msgpack::Wire for $name {
            fn read(input: &mut $crate::rpc::msgpack::Input<'_>) -> $crate::error::Result<Self> {
                use $crate::rpc::msgpack::{Shape, Wire};
                let mut value = Self::default();
                match input.shape()? {
                    Shape::Nil => {}
                    Shape::Map(entries) => {
                        for _ in 0..entries {
                            let key = input.key()?.unwrap_or_default();
                            $(if key == $key.as_bytes() {
                                value.$field = Wire::read(input)?;
                            } else)* {
                                input.skip()?;
                            }
                        }
                    }
                    Shape::Array(elements) => {
                        let mut left = elements;
                        $(if left > 0 {
                            left -= 1;
                            value.$field = Wire::read(input)?;
                        })*
                        for _ in 0..left {
                            input.skip()?;
                        }
                    }
                }
                Ok(value)
            }

            fn write(&self, to: &mut Vec<u8>) {
                use $crate::rpc::msgpack::{Wire, write_map, write_raw};
                let fields = [$(!wire_struct!(@left_out &self.$field $(, $always)?)),*];
                write_map(fields.iter().filter(|written| **written).count(), to);
                $(if !wire_struct!(@left_out &self.$field $(, $always)?) {
                    write_raw($key.as_bytes(), to);
                    Wire::write(&self.$field, to);
                })*
            }

            fn is_zero(&self) -> bool {
                *self == Self::default()
            }
        }

        impl $crate::rpc::msgpack::Item for $name {
            fn read_item(input: &mut $crate::rpc::msgpack::Input<'_>) -> $crate::error::Result<Option<Self>> {
                $crate::rpc::msgpack::Wire::read(input).map(Some)
            }
            fn write_item(&self, to: &mut Vec<u8>) {
                $crate::rpc::msgpack::Wire::write(self, to);
            }
        }
    };
}
pub(super) use wire_struct;
