//! Reading protobuf field by field, for what is decoded by hand or has to be measured before it is decoded.

use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::types::encoding::{put_bytes, put_varint};

/// One field: its number and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// A length and bytes.
    Bytes(u64, &'a [u8]),
    /// A varint.
    Varint(u64, u64),
    /// A field of fixed width.
    Fixed(u64),
}

/// The fields of a message, in the order they were written.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; none at the end.
    ///
    /// # Errors
    /// `Corrupt` for what is no protobuf.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > u64::from(u32::MAX >> 3) {
            return Err(corrupt("a field has an impossible number"));
        }
        let field = match tag & 7 {
            0 => Field::Varint(number, self.varint()?),
            1 => self.skip(8).map(|_| Field::Fixed(number))?,
            2 => {
                let length = self.varint()?;
                Field::Bytes(number, self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Field::Fixed(number))?,
            _ => return Err(corrupt("a field has an unknown wire type")),
        };
        Ok(Some(field))
    }

    fn varint(&mut self) -> Result<u64> {
        let (value, rest) =
            read_varint(self.rest).ok_or_else(|| corrupt("a number is cut off or too long"))?;
        self.rest = rest;
        Ok(value)
    }

    fn skip(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.len());
        let Some(length) = length else { return Err(corrupt("a field is longer than what holds it")) };
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes)
    }
}

/// A varint of at most 64 bits, and what follows it.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// How many bytes a varint takes.
pub(super) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what).component(super::COMPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_as_they_were_written() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut buffer = Vec::new();
            put_varint(&mut buffer, value);
            assert_eq!(buffer.len(), varint_len(value), "{value}");
            buffer.push(9);
            assert_eq!(read_varint(&buffer), Some((value, &[9][..])));
        }
        assert_eq!(read_varint(&[]), None);
        assert_eq!(read_varint(&[0x80]), None);
        assert_eq!(read_varint(&[0xff; 9]), None);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
    }

    #[test]
    fn lying_lengths_and_unknown_types_are_corrupt() {
        for bad in
            [&[0x0a, 5, 1][..], &[0x0a], &[0x0b], &[0x0c], &[0x00, 1], &[0x09, 1, 2], &[0x0a, 0xff, 0xff]]
        {
            let mut fields = Fields::of(bad);
            assert_eq!(fields.next().unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
