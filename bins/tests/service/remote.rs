//! A configuration that is somewhere else.

use std::net::TcpListener;

use super::http::Server;
use super::*;

pub(crate) fn pointing_to(url: &str) -> Home {
    let home = Home::new();
    let ran = home.run(&["init", url]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.stderr,
        format!(
            "configuration written to {}.\nnew identity written to {}\nnew empty peerstore written to .\n",
            home.display("service.json"),
            home.display("identity.json")
        )
    );
    assert_eq!(home.read("service.json"), format!("{{\n  \"source\": \"{url}\"\n}}"));
    assert!(!home.path("peerstore").exists());
    home
}

#[test]
fn it_is_fetched_and_variables_are_laid_over_it_and_the_file_keeps_only_the_address() {
    let config = include_str!("../data/service/go-crdt-pebble.json").replace("0.0.0.0", "127.0.0.1");
    let bad = config.replace("\"dial_peer_timeout\": \"3s\"", "\"dial_peer_timeout\": \"0s\"");
    let server = Server::of(&config);
    server.redirect("/moved", "/service.json");
    server.put("/bad", &bad);
    let url = &server.url;
    let home = pointing_to(&format!("{url}/moved"));
    let before = home.read("service.json");
    let ran = home.run(&["state", "export"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("loading configuration from {url}/moved\n")), "{}", ran.stderr);
    assert_eq!(home.read("service.json"), before);
    let ran = home.run_with(&["state", "export"], &[("CLUSTER_REPLICATIONFACTORMIN", "7")], "");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let ran = pointing_to(&format!("{url}/bad")).run(&["state", "export"]);
    assert!(ran.stderr.ends_with("error loading configurations: cluster.dial_peer_timeout is invalid\n"));
}

#[test]
fn what_cannot_be_fetched_has_the_texts_of_the_reference() {
    let server = Server::start();
    server.put("/again", &"{\"source\": \"http://127.0.0.1:1/\"}");
    server.put("/html", &"<html>");
    let url = &server.url;
    let nobody = "http://127.0.0.1:1/service.json".to_owned();
    for (source, text) in [
        (nobody.clone(), format!("could not fetch configuration from source: {nobody}")),
        (format!("{url}/none"), "unsuccessful request (404): not here\n".to_owned()),
        (format!("{url}/again"), "a sourced configuration cannot point to another source".to_owned()),
        (format!("{url}/html"), "not valid JSON: expected value at line 1 column 1".to_owned()),
    ] {
        let ran = pointing_to(&source).run(&["state", "export"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        let said = format!("error loading configurations: {text}\n");
        assert!(ran.stderr.ends_with(&said), "{source}: {}", ran.stderr);
    }
}

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tls/cert.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tls/key.pem");

/// Answers every request with the body, for those who believe its certificate.
fn serve_tls(body: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_file(KEY).unwrap();
    let config = ServerConfig::builder_with_provider(std::sync::Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
    });
    format!("https://{address}")
}

#[test]
fn over_https_the_certificate_must_be_believed_which_a_file_of_authorities_can_say() {
    let config = include_str!("../data/service/go-crdt-pebble.json").replace("0.0.0.0", "127.0.0.1");
    let home = pointing_to(&format!("{}/service.json", serve_tls(config)));
    let ran = home.run(&["state", "export"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("invalid peer certificate: "), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("error loading configurations: could not fetch configuration from source: https://")
    );
    let ran = home.run_with(&["state", "export"], &[("SSL_CERT_FILE", CERTIFICATE)], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
}
