//! Conformance suite of [`PinAllocator`](crate::allocator::PinAllocator).
