//! Conformance suite of [`PinTracker`](crate::tracker::PinTracker).
