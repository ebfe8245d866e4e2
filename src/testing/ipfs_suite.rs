//! Conformance suite of [`IpfsConnector`](crate::ipfs_connector::IpfsConnector).
