//! Go's msgpack dialect: what the reference's codec writes, and the rest of what it reads.
//!
//! Text and bytes are both written as the old specification's *raw* (`fixstr`, `str16`, `str32`), never as `str8` or
//! `bin`; signed numbers in signed widths; times as the payload of the timestamp extension without its head. Absent, nil
//! and empty mean the same. No crate writes or reads that, and every length here comes from another peer, so this is our
//! own: nothing is allocated for a length that is only claimed, and the items of one object are counted.

mod values;

use crate::error::{Error, ErrorKind, Result};

pub(super) use values::{Empty, List};

/// Deepest nesting of arrays and maps in one object.
pub(super) const DEPTH_MAX: usize = 64;
/// Most array elements and map entries in one object, all of its lists together, where nothing else is said.
const ITEMS_MAX: usize = 262_144;

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
    fn new(bytes: &'a [u8], items_max: usize) -> Self {
        Self { rest: bytes, items: items_max }
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
            .ok_or_else(|| malformed("msgpack object with more items than any has"))?;
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
    decode_large(bytes, ITEMS_MAX)
}

/// The same, with another bound on the number of elements and entries.
pub(super) fn decode_large<T: Wire>(bytes: &[u8], items_max: usize) -> Result<T> {
    T::read(&mut Input::new(bytes, items_max))
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
