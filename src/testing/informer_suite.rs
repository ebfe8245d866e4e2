//! Conformance suite of [`Informer`](crate::informer::Informer).
