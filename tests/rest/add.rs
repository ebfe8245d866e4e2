//! Adding content over real sockets.

use std::time::Duration;

use ipfs_cluster::api::rest::RestConfig;
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::types::{Block, Cid, car_header, car_section_head};

use super::caller::Caller;
use super::{Peer, soon};

const FORM: &str = "Host: x\r\nContent-Type: multipart/form-data; boundary=B\r\n";
const END: &str = "--B--\r\n";

pub(super) fn part(name: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!("--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
    [head.as_bytes(), bytes, b"\r\n"].concat()
}

pub(super) fn request(query: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    let body = [&parts.concat()[..], END.as_bytes()].concat();
    let head = format!("POST /add{query} HTTP/1.1\r\n{FORM}Content-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_is_pinned_and_its_blocks_are_there() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    caller
        .send(request("?cid-version=1&name=n", &[part("dir%2Fa", b"one"), part("dir%2Fsub%2Fb", b"two")]))
        .await;
    let received = soon(caller.answer()).await;
    let lines = received.lines();
    let names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dir/a", "dir/sub/b", "dir/sub", "dir"], "{}", received.text());
    assert!(received.trailers.is_empty(), "{:?}", received.trailers);
    assert!(soon(caller.is_closed()).await);
    let root: Cid = lines[3]["cid"].as_str().unwrap().parse().unwrap();
    assert_eq!(peer.cluster.pin_get(&root).await.unwrap().options.name, "n");
    soon(peer.cluster.wait(root).into_future()).await.unwrap();
    for line in &lines {
        peer.ipfs.get_block(&line["cid"].as_str().unwrap().parse().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_in_small_pieces_is_added_and_a_car_too() {
    let peer =
        Peer::with(RestConfig { body_timeout: Duration::from_millis(1), ..RestConfig::default() }, |b| b)
            .await;
    let mut caller = peer.caller().await;
    caller
        .send(format!("POST /add?cid-version=1 HTTP/1.1\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n"))
        .await;
    let bytes: Vec<u8> =
        (0..5_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let body = [part("long", &bytes), END.as_bytes().to_vec()].concat();
    for piece in body.chunks(9_999) {
        caller.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    caller.send("0\r\n\r\n").await;
    let lines = soon(caller.answer()).await.lines();
    let root = lines[0]["cid"].as_str().unwrap();
    // `ipfs add --cid-version=1` says so.
    let (expected, _) = ipfs_cluster::ipfs_connector::sample_file_with_chunks(bytes, 262_144);
    assert_eq!(root, expected.to_string());

    let block = Block::raw("in a car");
    let car = [&car_header(&[block.cid])[..], &car_section_head(&block.cid, 8), &block.data].concat();
    let mut caller = peer.caller().await;
    caller.send(request("?format=car&stream-channels=false", &[part("x.car", &car)])).await;
    let received = soon(caller.answer()).await;
    assert_eq!(received.json()[0]["cid"], block.cid.to_string(), "{}", received.text());
    assert_eq!(received.json()[0]["bytes"], 8);
    assert_eq!(peer.ipfs.get_block(&block.cid).await.unwrap(), block);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_that_fails_or_is_left_pins_nothing_and_the_next_one_works() {
    let peer = Peer::start().await;
    for (query, parts, error) in [
        ("?chunker=nope", vec![part("a", b"x")], "unrecognized chunker option: nope"),
        ("", vec![part("a%2F..%2Fb", b"x")], "\"..\""),
        ("?wrap-with-directory=1", vec![part("a", b"x"), part("a%2Fb", b"x")], "a"),
        ("?format=car", vec![part("a", b"not a car")], "unexpected EOF"),
    ] {
        let mut caller = peer.caller().await;
        caller.send(request(query, &parts)).await;
        let received = soon(caller.answer()).await;
        assert_eq!(received.status, 200);
        assert!(received.stream_errors()[0].contains(error), "{query}: {:?}", received.trailers);
    }
    // What cannot be, whatever the content is, is said before it is read.
    for query in ["?nocopy=true&shard=true", "?nocopy=true&format=car", "?nocopy=true&raw-leaves=false"] {
        let mut caller = peer.caller().await;
        caller.send(request(query, &[part("a", b"x")])).await;
        let received = soon(caller.answer()).await;
        assert!(received.status == 400 && received.text().contains("nocopy"), "{query}: {}", received.text());
    }
    let whole = request("", &[part("left", b"x")]);
    let mut left = peer.caller().await;
    left.send(&whole[..whole.len() - 10]).await;
    soon(left.begun()).await;
    drop(left);
    assert_eq!(peer.cluster.state().counts().pins, 0);
    let mut caller: Caller = peer.caller().await;
    caller.send(whole).await;
    assert!(soon(caller.answer()).await.trailers.is_empty());
    assert_eq!(peer.cluster.state().counts().pins, 1);
}
