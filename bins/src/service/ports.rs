//! Ports that somebody else has.

use std::io;
use std::net::{IpAddr, TcpListener};

use ipfs_cluster::types::Multiaddr;
use multiaddr::Protocol;

/// The addresses, with port 0 (any that is free) for each TCP port that is taken; and those that were.
pub fn avoid_taken(addresses: &[Multiaddr]) -> (Vec<Multiaddr>, Vec<Multiaddr>) {
    let mut taken = Vec::new();
    let free = addresses
        .iter()
        .map(|address| {
            if !is_taken(address) {
                return address.clone();
            }
            taken.push(address.clone());
            address
                .iter()
                .map(|part| match part {
                    Protocol::Tcp(_) => Protocol::Tcp(0),
                    other => other,
                })
                .collect()
        })
        .collect();
    (free, taken)
}

/// Certain only of ports that are: anything else is found out by listening.
fn is_taken(address: &Multiaddr) -> bool {
    let mut ip = None;
    for part in address {
        match part {
            Protocol::Ip4(v4) => ip = Some(IpAddr::from(v4)),
            Protocol::Ip6(v6) => ip = Some(IpAddr::from(v6)),
            Protocol::Tcp(port) if port != 0 => {
                let Some(ip) = ip else { return false };
                let bound = TcpListener::bind((ip, port));
                return matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_becomes_any_that_is_free_and_others_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // None that the system gives to others meanwhile.
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let free = (10_000..30_000).find(is_free).unwrap();
        let parse = |text: String| text.parse::<Multiaddr>().unwrap();
        let addresses: Vec<Multiaddr> = [
            format!("/ip4/127.0.0.1/tcp/{port}"),
            format!("/ip4/127.0.0.1/tcp/{port}/ws"),
            format!("/ip4/127.0.0.1/tcp/{free}"),
            "/ip4/127.0.0.1/udp/1/quic".to_owned(),
            "/ip4/127.0.0.1/tcp/0".to_owned(),
        ]
        .into_iter()
        .map(parse)
        .collect();
        let (avoided, taken) = avoid_taken(&addresses);
        let texts: Vec<String> = avoided.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "/ip4/127.0.0.1/tcp/0",
                "/ip4/127.0.0.1/tcp/0/ws",
                &format!("/ip4/127.0.0.1/tcp/{free}"),
                "/ip4/127.0.0.1/udp/1/quic",
                "/ip4/127.0.0.1/tcp/0"
            ]
        );
        assert_eq!(taken, [addresses[0].clone(), addresses[1].clone()]);
    }
}
