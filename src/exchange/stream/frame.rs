//! Messages on a stream: length, kind, CID, bytes of a block.
//!
//! ```text
//! length: u32 big-endian, of all that follows
//! kind:   u8
//! cid:    u8 length, then the binary CID
//! data:   the rest; only in a block
//! ```

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::types::Cid;

/// Largest block that is sent or taken, in bytes.
pub const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest binary CID, in bytes: 64 bytes of hash and the numbers before it.
const CID_BYTES_MAX: usize = 100;
const LENGTH_BYTES: usize = size_of::<u32>();
/// Kind and length of the CID.
const HEAD_BYTES: usize = 2;
const FRAME_BYTES_MAX: usize = HEAD_BYTES + CID_BYTES_MAX + BLOCK_BYTES_MAX;
/// Most that is read ahead of what arrived: a length that is only claimed takes no memory.
const READ_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Asks whether the other side has a block, now or later.
    WantHave(Cid),
    /// Asks for a block, now or later.
    WantBlock(Cid),
    /// Takes either back.
    Cancel(Cid),
    /// Answers that the block is there.
    Have(Cid),
    /// Answers that it is not there now.
    HaveNot(Cid),
    /// The block.
    Block(Cid, Bytes),
}

impl Frame {
    /// Whether the CID fits into a frame.
    pub(super) fn is_possible(cid: &Cid) -> bool {
        cid.encoded_len() <= CID_BYTES_MAX
    }

    pub(super) fn write(&self, to: &mut BytesMut) {
        let (kind, cid, data) = match self {
            Self::WantHave(cid) => (0, cid, None),
            Self::WantBlock(cid) => (1, cid, None),
            Self::Cancel(cid) => (2, cid, None),
            Self::Have(cid) => (3, cid, None),
            Self::HaveNot(cid) => (4, cid, None),
            Self::Block(cid, data) => (5, cid, Some(data)),
        };
        let cid = cid.to_bytes();
        let data = data.map_or(&[][..], |data| data);
        // Neither length can be over its number: both are bounded where frames are made.
        to.put_u32((HEAD_BYTES + cid.len() + data.len()) as u32);
        to.put_u8(kind);
        to.put_u8(cid.len() as u8);
        to.put_slice(&cid);
        to.put_slice(data);
    }

    fn parse(mut frame: Bytes) -> Option<Self> {
        if frame.len() < HEAD_BYTES {
            return None;
        }
        let (kind, length) = (frame.get_u8(), usize::from(frame.get_u8()));
        if frame.len() < length {
            return None;
        }
        let cid = Cid::try_from(frame.split_to(length).as_ref()).ok()?;
        match (kind, frame.is_empty()) {
            (0, true) => Some(Self::WantHave(cid)),
            (1, true) => Some(Self::WantBlock(cid)),
            (2, true) => Some(Self::Cancel(cid)),
            (3, true) => Some(Self::Have(cid)),
            (4, true) => Some(Self::HaveNot(cid)),
            (5, _) => Some(Self::Block(cid, frame)),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next frame; none at a clean end. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame, `UnexpectedEof` for half of one; what the stream says.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.next_arrived()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if (&mut self.stream).take(READ_BYTES as u64).read_buf(&mut self.buffer).await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next frame, if all of it was read from the stream with the one before.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame.
    pub(super) fn next_arrived(&mut self) -> io::Result<Option<Frame>> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let Some(length) = self.buffer.first_chunk().map(|length| u32::from_be_bytes(*length) as usize)
        else {
            return Ok(None);
        };
        if length > FRAME_BYTES_MAX {
            return Err(invalid(format!(
                "a frame of {length} bytes, at most {FRAME_BYTES_MAX} are possible"
            )));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = Frame::parse(self.buffer.split_to(length).freeze());
        frame.map(Some).ok_or_else(|| invalid("a frame that nobody writes".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    fn cid() -> Cid {
        Block::raw("x").cid
    }

    fn all_kinds() -> Vec<Frame> {
        let data = Bytes::from(vec![7; 200_000]);
        vec![
            Frame::WantHave(cid()),
            Frame::WantBlock(cid()),
            Frame::Cancel(cid()),
            Frame::Have(cid()),
            Frame::HaveNot(cid()),
            Frame::Block(cid(), data),
            Frame::Block(cid(), Bytes::new()),
        ]
    }

    #[tokio::test]
    async fn every_kind_survives_the_way_in_pieces_of_any_size() {
        let mut bytes = BytesMut::new();
        all_kinds().iter().for_each(|frame| frame.write(&mut bytes));
        for piece in [1, 7, 1_000, 100_000] {
            let (mut one, other) = tokio::io::duplex(piece);
            let bytes = bytes.clone();
            let sending = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut one, &bytes).await.unwrap();
            });
            let mut reader = FrameReader::new(other);
            for expected in all_kinds() {
                assert_eq!(reader.next().await.unwrap(), Some(expected));
            }
            assert_eq!(reader.next().await.unwrap(), None);
            sending.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error_and_a_claimed_length_takes_no_memory() {
        let cid = cid().to_bytes();
        let with_cid = |kind: u8, rest: &[u8]| {
            let mut frame = BytesMut::new();
            frame.put_u32((HEAD_BYTES + cid.len() + rest.len()) as u32);
            frame.put_slice(&[kind, cid.len() as u8]);
            frame.put_slice(&cid);
            frame.put_slice(rest);
            frame.to_vec()
        };
        for (case, bytes, kind) in [
            ("unknown kind", with_cid(9, b""), io::ErrorKind::InvalidData),
            ("a question with data", with_cid(0, b"data"), io::ErrorKind::InvalidData),
            ("no cid", vec![0, 0, 0, 2, 0, 0], io::ErrorKind::InvalidData),
            ("a cid longer than the frame", vec![0, 0, 0, 2, 0, 50], io::ErrorKind::InvalidData),
            ("empty", vec![0, 0, 0, 0], io::ErrorKind::InvalidData),
            ("one byte", vec![0, 0, 0, 1, 5], io::ErrorKind::InvalidData),
            ("4 GiB claimed", vec![255, 255, 255, 255], io::ErrorKind::InvalidData),
            ("half a frame", with_cid(5, b"data")[..20].to_vec(), io::ErrorKind::UnexpectedEof),
            ("half a length", vec![0, 0], io::ErrorKind::UnexpectedEof),
        ] {
            let error = FrameReader::new(bytes.as_slice()).next().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{case}");
        }
        let claimed = (FRAME_BYTES_MAX as u32).to_be_bytes();
        let mut reader = FrameReader::new(claimed.as_slice());
        assert!(reader.next().await.is_err());
        assert!(reader.buffer.capacity() <= 4 * READ_BYTES, "{}", reader.buffer.capacity());
    }
}
