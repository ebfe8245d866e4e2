//! Conformance suite of [`Monitor`](crate::monitor::Monitor).
