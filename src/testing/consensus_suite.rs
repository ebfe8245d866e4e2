//! Conformance suite of [`Consensus`](crate::consensus::Consensus).
