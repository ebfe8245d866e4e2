//! Conformance suite of [`Storage`](crate::storage::Storage).
