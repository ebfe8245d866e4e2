//! Buffers of chunks that did not come in one piece, used again: a buffer from the allocator is new memory nearly every
//! time, because it is freed elsewhere and later, and the system clears new memory at half the speed of hashing it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one size. There are never more than were used at the same time, and none when everything that was made of them
/// is gone.
#[derive(Debug, Default)]
pub(in crate::adder::import) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// An empty buffer of at least so many bytes.
    pub(super) fn take(self: &Arc<Self>, capacity: usize) -> Buffer {
        let bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = bytes.filter(|bytes| bytes.capacity() >= capacity);
        Buffer { bytes: bytes.unwrap_or_else(|| Vec::with_capacity(capacity)), pool: Some(Arc::clone(self)) }
    }
}

/// Bytes that are collected, and where their memory goes afterwards.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    /// One that is used once.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), pool: None }
    }

    pub(super) fn freeze(mut self) -> Bytes {
        if self.pool.is_some() { Bytes::from_owner(self) } else { std::mem::take(&mut self.bytes).into() }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}
