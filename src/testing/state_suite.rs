//! Conformance suite of [`State`](crate::state::State).
