//! Conformance suite of [`BlockExchange`](crate::exchange::BlockExchange).
