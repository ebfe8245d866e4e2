//! Conformance suite of [`PeerTransport`](crate::transport::PeerTransport).
