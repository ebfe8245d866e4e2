//! Listeners of every kind: TLS, Unix sockets, streams between peers, and what they share.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ipfs_cluster::api::rest::{RestApi, RestConfig, RestTls, router};
use ipfs_cluster::cluster::{Cluster, presets};
use ipfs_cluster::config::Identity;
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::transport::{MemoryNetwork, PeerTransport as _, Protocol};
use ipfs_cluster::types::{Multiaddr, parse_multiaddr};
use ipfs_cluster::{ErrorKind, Result};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};

use super::caller::Caller;
use super::soon;

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
/// Short, but a busy machine shakes hands within it.
const HANDSHAKE: Duration = Duration::from_secs(8);
const CERTIFICATE: &[u8] = include_bytes!("../data/tls/cert.pem");

fn tls() -> Option<RestTls> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    Some(RestTls { cert_file: folder.join("cert.pem"), key_file: folder.join("key.pem") })
}

fn loopback() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().unwrap()
}

fn unix(path: &Path) -> Multiaddr {
    parse_multiaddr(&format!("/unix{}", path.display())).unwrap()
}

async fn bind(config: RestConfig) -> Result<RestApi> {
    let builder = Cluster::builder().preset(presets::InMemory).peername("peer").ipfs(MemoryIpfs::new());
    RestApi::bind(config, builder.start().await?).await
}

async fn encrypted(address: SocketAddr, version: &'static SupportedProtocolVersion) -> Caller {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "HTTP/2 is not spoken");
    assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    Caller::over(stream)
}

async fn lists_and_pins(caller: &mut Caller) {
    let received = soon(caller.call("POST", &format!("/pins/{CID}?name=x"))).await;
    assert_eq!((received.status, received.json()["name"].as_str()), (200, Some("x")));
    let received = soon(caller.call("GET", "/allocations")).await;
    assert_eq!((received.status, received.lines().len()), (200, 1));
    assert_eq!(received.stream_errors(), [""]);
    assert_eq!(soon(caller.call("GET", "/health")).await.status, 204, "the connection lives on");
}

#[tokio::test]
async fn tls_is_spoken_in_both_its_versions_and_only_with_http_1() {
    let api = bind(RestConfig { tls: tls(), ..RestConfig::default() }.listen([loopback()])).await.unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let mut caller = encrypted(api.local_addresses()[0], version).await;
        lists_and_pins(&mut caller).await;
        caller.send("GET /id HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(soon(caller.answer()).await.status, 200);
        assert!(soon(caller.is_closed()).await);
    }
    assert_eq!(version::TLS12.version, ProtocolVersion::TLSv1_2);
    soon(api.shutdown()).await;
}

#[tokio::test]
async fn a_caller_that_does_not_encrypt_is_told_so_as_the_reference_does() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../data/rest-vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let vector = vectors.into_iter().find(|vector| vector["name"] == "tls-plain-http-to-https-port").unwrap();
    let api = bind(RestConfig { tls: tls(), ..RestConfig::default() }.listen([loopback()])).await.unwrap();
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let mut caller = Caller::connect(api.local_addresses()[0]).await;
        caller.send(format!("{method} /health HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let received = soon(caller.answer()).await;
        assert_eq!(u64::from(received.status), vector["response"]["status"].as_u64().unwrap());
        assert_eq!(received.text(), vector["response"]["body"]["raw"].as_str().unwrap());
        assert!(received.headers.is_empty());
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up_and_keeps_nobody_out() {
    let config = RestConfig { tls: tls(), read_header_timeout: HANDSHAKE, ..RestConfig::default() };
    let api = bind(config.listen([loopback()])).await.unwrap();
    let address = api.local_addresses()[0];
    let mut silent = Caller::connect(address).await;
    let mut half = Caller::connect(address).await;
    half.send(b"\x16\x03\x01\x02\x00\x01\x00").await;
    let mut wrong = Caller::connect(address).await;
    wrong.send(b"SSH-2.0-x\r\n").await;
    lists_and_pins(&mut encrypted(address, &version::TLS13).await).await;
    assert!(soon(silent.is_closed()).await);
    assert!(soon(half.is_closed()).await);
    // An alert, and the end.
    while matches!(soon(wrong.some()).await, Ok(1..)) {}
}

#[tokio::test]
async fn without_its_files_nothing_listens() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, missing) = (folder.path().join("api.sock"), folder.path().join("cert.pem"));
    let files = Some(RestTls { cert_file: missing.clone(), key_file: missing });
    let config = RestConfig { tls: files, ..RestConfig::default() }.listen([unix(&socket), loopback()]);
    let error = bind(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("error loading TLS certificate/key: open "), "{error}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn every_kind_of_listener_serves_the_same_api_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let config = RestConfig { tls: tls(), ..RestConfig::default() };
    let api = bind(config.listen([unix(&socket), loopback(), loopback()])).await.unwrap();
    let network = MemoryNetwork::new(1);
    let (ours, theirs) = (Identity::generate().id(), Identity::generate().id());
    let (host, other) = (network.join(ours).unwrap(), network.join(theirs).unwrap());
    api.serve_on(&host).unwrap();
    assert_eq!(api.serve_on(&host).unwrap_err().kind(), ErrorKind::Conflict);
    let shown: Vec<_> = api.local_multiaddresses().iter().map(ToString::to_string).collect();
    assert_eq!((shown.len(), shown[0].as_str()), (3, format!("/unix{}", socket.display()).as_str()));
    assert!(shown[1].starts_with("/ip4/127.0.0.1/tcp/"));

    // TLS is for TCP: a socket of the file system is guarded by the system, and clients do not encrypt there.
    lists_and_pins(&mut Caller::over(UnixStream::connect(&socket).await.unwrap())).await;
    let protocol = Protocol::new("/libp2p-http");
    let mut stream = Caller::over(soon(other.open(&ours, &protocol)).await.unwrap());
    lists_and_pins(&mut stream).await;
    for address in api.local_addresses() {
        lists_and_pins(&mut encrypted(*address, &version::TLS13).await).await;
    }

    let error = bind(RestConfig::default().listen([unix(&socket)])).await.unwrap_err();
    assert!(error.to_string().contains("another process listens there"), "{error}");
    assert!(socket.exists());
    soon(api.shutdown()).await;
    assert!(!socket.exists(), "the socket goes with the API");
    assert!(soon(stream.is_closed()).await);
    let mut late = Caller::over(soon(other.open(&ours, &protocol)).await.unwrap());
    assert!(soon(late.is_closed()).await);
    assert_eq!(api.serve_on(&other).unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test]
async fn idle_connections_make_way_for_callers_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let config = RestConfig { connections_max: 8, ..RestConfig::default() };
    let api = bind(config.listen([unix(&socket), loopback()])).await.unwrap();
    let network = MemoryNetwork::new(1);
    let (ours, theirs) = (Identity::generate().id(), Identity::generate().id());
    let (host, other) = (network.join(ours).unwrap(), network.join(theirs).unwrap());
    api.serve_on(&host).unwrap();
    let address = api.local_addresses()[0];
    let mut idle = Vec::new();
    for _ in 0..100 {
        // Each keeps its connection, most of them lose it again.
        let mut caller = Caller::connect(address).await;
        assert_eq!(soon(caller.call("GET", "/health")).await.status, 204);
        idle.push(caller);
    }
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    lists_and_pins(&mut Caller::over(UnixStream::connect(&socket).await.unwrap())).await;
    let protocol = Protocol::new("/libp2p-http");
    lists_and_pins(&mut Caller::over(soon(other.open(&ours, &protocol)).await.unwrap())).await;
    assert!(soon(idle[0].is_closed()).await);
    soon(api.shutdown()).await;
}

/// Memory of this process that is in use, in bytes.
#[cfg(target_os = "linux")]
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Whether this is the only test of the process that runs, so that its memory can be told: run it by its name.
#[cfg(target_os = "linux")]
fn is_long() -> bool {
    std::env::var_os("IPFS_CLUSTER_TEST_LONG").is_some_and(|value| value == "1")
}

/// 10,000 with `IPFS_CLUSTER_TEST_LONG=1`, which takes 20,000 open files.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_take_little_memory_and_nobody_waits_for_them() {
    let callers = if is_long() { 9_800 } else { 300 };
    let config = RestConfig { connections_max: 20_000, max_header_bytes: 4096, ..RestConfig::default() };
    let api = bind(config.listen([loopback()])).await.unwrap();
    let address = api.local_addresses()[0];
    let connect = |heads: &'static str| async move {
        let mut caller = Caller::connect(address).await;
        assert_eq!(soon(caller.call("GET", "/health")).await.status, 204);
        caller.send(heads).await;
        caller
    };
    // What the first ones bring with them is not what each takes.
    let first = join_all((0..50).map(|_| connect(""))).await;
    let before = memory();
    let mut idle = Vec::new();
    for _ in 0..callers / 100 {
        idle.extend(join_all((0..100).map(|_| connect(""))).await);
    }
    let each = memory().saturating_sub(before) / callers;
    println!("{callers} idle connections: {each} bytes each, both sides of it");
    // This test's own side is about half of it.
    assert!(!is_long() || each < 64 * 1024, "{each} bytes for each idle connection");
    assert_eq!(soon(Caller::connect(address).await.call("GET", "/health")).await.status, 204);
    drop((first, idle));
    soon(api.shutdown()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_headers_and_bodies_without_end_take_bounded_memory() {
    const CALLERS: u64 = 100;
    let api = bind(RestConfig::default().listen([loopback()])).await.unwrap();
    let address = api.local_addresses()[0];
    let flood = |head: &'static str, piece: &'static [u8]| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(head.as_bytes()).await.unwrap();
        // Until the server has had enough, which is long before this many.
        for piece_number in 0..200_000 {
            if stream.write_all(piece).await.is_err() {
                return piece_number;
            }
        }
        panic!("the server took everything");
    };
    let before = memory();
    for (head, piece) in [
        (
            "GET /id HTTP/1.1\r\n",
            &b"X-Some-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"[..],
        ),
        ("GET /", &b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..]),
        (
            "POST /peers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            &b"40\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"[..],
        ),
    ] {
        soon(join_all((0..CALLERS).map(|_| flood(head, piece)))).await;
    }
    let each = memory().saturating_sub(before) / CALLERS;
    println!("{CALLERS} floods: {each} bytes each");
    assert!(!is_long() || each < 256 * 1024, "{each} bytes for each flood");
    assert_eq!(soon(Caller::connect(address).await.call("GET", "/health")).await.status, 204);
    soon(api.shutdown()).await;
}

#[tokio::test]
async fn an_application_serves_it_below_a_path_beside_its_own_and_with_layers_of_its_own() {
    use axum::Router;
    use axum::http::HeaderValue;
    use axum::middleware::map_response;
    use axum::response::Response;
    use axum::routing::get;

    let builder = Cluster::builder().preset(presets::InMemory).peername("peer").ipfs(MemoryIpfs::new());
    let cluster = builder.start().await.unwrap();
    let layer = map_response(|mut response: Response| async {
        response.headers_mut().insert("x-layer", HeaderValue::from_static("of the application"));
        response
    });
    let own = || Router::new().route("/own", get(|| async { "mine" }));
    let nested = own().nest("/cluster/{name}", router(cluster.clone()).layer(layer));
    let merged = own().merge(router(cluster.clone()));
    let mut callers = Vec::new();
    for application in [nested, merged] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        callers.push(Caller::connect(listener.local_addr().unwrap()).await);
        let service = application.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    }
    for (caller, at) in callers.iter_mut().zip(["/cluster/a", ""]) {
        assert_eq!(soon(caller.call("GET", "/own")).await.text(), "mine");
        let received = soon(caller.call("POST", &format!("{at}/pins/{CID}?name=x"))).await;
        assert_eq!((received.status, received.json()["name"].as_str()), (200, Some("x")));
        assert_eq!(received.header("x-layer").is_some(), !at.is_empty());
        let received = soon(caller.call("GET", &format!("{at}/allocations"))).await;
        assert_eq!((received.status, received.lines().len()), (200, 1));
        let received = soon(caller.call("GET", &format!("{at}/pins/?local=true"))).await;
        let location = if at.is_empty() { "/pins?local=true" } else { "../pins?local=true" };
        assert_eq!((received.status, received.header("location")), (307, Some(location)));
        assert_eq!(soon(caller.call("GET", &format!("{at}/pins"))).await.status, 200);
        assert_eq!(soon(caller.call("GET", &format!("{at}/openapi.json"))).await.json()["openapi"], "3.1.1");
        assert_eq!(soon(caller.call("GET", &format!("{at}/nothing"))).await.status, 404);
        assert_eq!(soon(caller.call("PUT", &format!("{at}/id"))).await.status, 405);
    }
    assert_eq!(soon(callers[0].call("GET", "/cluster/a/")).await.status, 404);
    assert_eq!(soon(callers[0].call("GET", "/pins")).await.status, 404, "of the application");
    let head = "GET /cluster/a/events?heartbeat=true HTTP/1.1\r\nHost: x\r\n\r\n";
    callers[0].send(head).await;
    soon(callers[0].until("\"type\":\"heartbeat\"")).await;
    soon(cluster.shutdown()).await;
}

#[cfg(feature = "client")]
mod clients {
    use futures::StreamExt as _;
    use ipfs_cluster::client::{Client, Watch};
    use ipfs_cluster::types::{Event, Happening, PinOptions, PinTypeFilter, parse_cid};

    use super::*;

    async fn uses(client: &Client) {
        let pin = soon(client.pin(parse_cid(CID).unwrap(), &PinOptions::default())).await.unwrap();
        assert_eq!(pin.cid.to_string(), CID);
        let pins: Vec<_> =
            soon(futures::TryStreamExt::try_collect(client.allocations(PinTypeFilter::ALL))).await.unwrap();
        assert_eq!(pins.len(), 1);
    }

    /// Watches, and does something until it is told of it; then again, behind the cursor.
    async fn watches(client: &Client) {
        let watch = Watch { kinds: Some("pinned".parse().unwrap()), ..Watch::default() };
        let mut events = client.watch(&watch);
        let pinning = async {
            for number in 0.. {
                let options = PinOptions { name: format!("name {number}"), ..PinOptions::default() };
                client.pin(parse_cid(CID).unwrap(), &options).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let first = soon(async {
            tokio::select! {
                event = events.next() => event.unwrap().unwrap(),
                () = pinning => unreachable!(),
            }
        })
        .await;
        assert_eq!(first.what.cid().unwrap().to_string(), CID);
        let options = PinOptions { name: "last".to_owned(), ..PinOptions::default() };
        client.pin(parse_cid(CID).unwrap(), &options).await.unwrap();
        let mut again = client.watch(&Watch { after: Some(first.cursor), ..watch });
        for events in [&mut events, &mut again] {
            let named =
                |event: &Event| matches!(&event.what, Happening::Pinned(pin) if pin.options.name == "last");
            while !named(&soon(events.next()).await.unwrap().unwrap()) {}
        }
    }

    #[tokio::test]
    async fn a_client_believes_only_certificates_that_somebody_vouches_for() {
        let config = RestConfig { tls: tls(), ..RestConfig::default() };
        let api = bind(config.listen([loopback()])).await.unwrap();
        let port = api.local_addresses()[0].port();
        let to = |host: &str| Client::builder().host(format!("{host}:{port}")).https(true);
        uses(&to("localhost").certificate_authorities(CERTIFICATE).build().unwrap()).await;
        uses(&to("127.0.0.1").no_check_certificate(true).build().unwrap()).await;
        let error = soon(to("127.0.0.1").certificate_authorities(CERTIFICATE).build().unwrap().id()).await;
        error.unwrap();

        // A system without any certificates is told about when the client is made.
        match to("localhost").build() {
            Ok(client) => {
                let error = soon(client.id()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                let text =
                    format!("Get \"https://localhost:{port}/id\": tls: failed to verify certificate: ");
                assert!(error.to_string().starts_with(&text), "{error}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Internal),
        }

        // The other way round: neither speaks the other's language, both say what is the matter.
        let plain = Client::builder().host(format!("localhost:{port}")).build().unwrap();
        let error = soon(plain.id()).await.unwrap_err();
        assert_eq!(error.to_string(), "Client sent an HTTP request to an HTTPS server.");
        let plain_api = bind(RestConfig::default().listen([loopback()])).await.unwrap();
        let host = format!("https://{}", plain_api.local_addresses()[0]);
        let client = Client::builder().host(host).no_check_certificate(true).build().unwrap();
        let error = soon(client.id()).await.unwrap_err();
        assert!(error.to_string().ends_with("http: server gave HTTP response to HTTPS client"), "{error}");
    }

    #[tokio::test]
    async fn a_client_uses_a_unix_socket_and_passes_over_one_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let api = bind(RestConfig::default().listen([unix(&socket)])).await.unwrap();
        uses(&Client::builder().host(unix(&socket).to_string()).build().unwrap()).await;
        let hosts = Client::builder().host("/unix/no/such/api.sock").host(unix(&socket).to_string());
        uses(&hosts.build().unwrap()).await;
        watches(&Client::builder().host(unix(&socket).to_string()).build().unwrap()).await;
        soon(api.shutdown()).await;
    }

    #[cfg(feature = "transport-libp2p")]
    mod libp2p {
        use ipfs_cluster::api::rest::RestLibp2p;
        use ipfs_cluster::config::Secret;

        use super::*;

        async fn serving(secret: &Secret) -> (RestApi, String) {
            let libp2p = RestLibp2p {
                listen_multiaddress: vec![loopback()],
                identity: Identity::generate(),
                secret: secret.clone(),
            };
            let id = libp2p.identity.id();
            // No other listener is needed.
            let config = RestConfig { libp2p: Some(libp2p), ..RestConfig::default() }.listen([]);
            let api = bind(config).await.unwrap();
            let [address] = api.local_multiaddresses() else { panic!("one address") };
            let address = address.to_string();
            assert!(address.starts_with("/ip4/127.0.0.1/tcp/") && address.ends_with(&format!("/p2p/{id}")));
            (api, address)
        }

        #[tokio::test]
        async fn a_client_speaks_http_over_libp2p_with_a_secret_and_without() {
            for secret in [Secret::generate(), Secret::NONE] {
                let (api, address) = serving(&secret).await;
                let client = Client::builder().host(&address).secret(secret.clone()).build().unwrap();
                uses(&client).await;
                uses(&client).await;
                watches(&client).await;
                let timeout = Duration::from_secs(2);
                let wrong = Client::builder().host(&address).secret(Secret::generate()).timeout(timeout);
                let error = soon(wrong.build().unwrap().id()).await.unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
                assert!(error.to_string().starts_with("Get \"libp2p://12D3"), "{error}");
                soon(api.shutdown()).await;
            }
        }

        #[tokio::test]
        async fn the_next_host_is_asked_when_a_peer_cannot_be_dialled() {
            let (api, address) = serving(&Secret::NONE).await;
            let nobody = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", Identity::generate().id());
            let client = Client::builder().host(&nobody).host(&address).build().unwrap();
            uses(&client).await;
            soon(api.shutdown()).await;
            let error = soon(client.id()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("failed to dial: failed to dial 12D3"), "{error}");
        }
    }
}
