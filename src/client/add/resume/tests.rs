//! Which part of a file is sent.

use std::fs;

use futures::TryStreamExt as _;

use super::super::tests::{Asked, client, server};
use super::*;
use crate::types::{Added, Block, Timestamp, car_header, car_section_head};

/// A CAR, and where its items end.
fn car(blocks: &[Block]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = car_header(&[blocks[0].cid]);
    let mut ends = vec![bytes.len()];
    for block in blocks {
        bytes.extend(car_section_head(&block.cid, block.data.len()));
        bytes.extend_from_slice(&block.data);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn blocks() -> Vec<Block> {
    (0..20u8).map(|number| Block::raw(vec![number; 1_000 + usize::from(number) * 40_000])).collect()
}

fn document(status: u16, body: &str) -> Box<dyn FnOnce(Asked) + Send> {
    let answer =
        format!("HTTP/1.1 {status} S\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    Box::new(move |mut asked: Asked| {
        assert!(asked.head.starts_with("GET /add/"), "{}", asked.head);
        asked.say(&answer);
    })
}

fn known(blocks: &[Block], offset: u64, digest: CarDigest) -> Box<dyn FnOnce(Asked) + Send> {
    let now = Timestamp::from_unix_seconds(7);
    let known = InterruptedAdd {
        key: "k".parse().unwrap(),
        root: blocks[0].cid,
        offset,
        blocks: 3,
        bytes: 4,
        digest,
        since: now,
        expires: now,
        allocations: vec![],
    };
    document(200, &serde_json::to_string(&known).unwrap())
}

/// Takes an upload, and tells its head and body.
fn taking(tell: std::sync::mpsc::Sender<(String, Vec<u8>)>) -> Box<dyn FnOnce(Asked) + Send> {
    Box::new(move |mut asked: Asked| {
        let body = asked.body();
        let head = asked.head.clone();
        asked.begin();
        asked.line("x.car");
        asked.end("");
        asked.hang_up_slowly();
        tell.send((head, body)).unwrap();
    })
}

#[tokio::test]
async fn only_what_did_not_arrive_is_sent_of_a_file_that_has_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    let blocks = blocks();
    let (bytes, ends) = car(&blocks);
    fs::write(&path, &bytes).unwrap();
    let at = ends[12] as u64;
    let right = digest_at(&path, at).unwrap().unwrap();
    let wrong = digest_at(&path, ends[11] as u64).unwrap().unwrap();
    let busy = || document(409, "{\"code\":409,\"message\":\"add k is running\"}");
    let unknown = document(404, "{\"code\":404,\"message\":\"no add k\"}");
    let changed = Some("the file has changed since its upload broke off");
    for (answers, offset, because) in [
        (vec![unknown], 0, None),
        (vec![busy(), busy(), known(&blocks, at, right)], at, None),
        (vec![known(&blocks, at, wrong)], 0, changed),
        (vec![known(&blocks, at + 1, right)], 0, changed),
        (vec![known(&blocks, bytes.len() as u64 + 1, right)], 0, changed),
    ] {
        let (tell, told) = std::sync::mpsc::channel();
        let mut scripts = answers;
        scripts.push(taking(tell));
        let client = client(&[&server(scripts)]);
        let car = client.resumable_car(&path, &AddOptions::default()).await.unwrap();
        assert_eq!((car.offset, car.bytes, car.anew_because), (offset, bytes.len() as u64, because));
        assert_eq!(car.upload.total_bytes().await, Some(bytes.len() as u64 - offset));
        let sent = car.upload.sent();
        let added: Vec<Added> = client.add(car.upload, &car.options).try_collect().await.unwrap();
        assert_eq!((added.len(), sent.bytes()), (1, bytes.len() as u64 - offset));
        let (head, body) = told.recv().unwrap();
        assert!(head.contains("format=car") && head.contains(&format!("&offset={offset}&")), "{head}");
        let rest = &bytes[offset as usize..];
        let start = body.windows(rest.len()).position(|window| window == rest).unwrap();
        let part = String::from_utf8_lossy(&body[..start]);
        assert!(part.contains("filename=\"x.car\"") && part.ends_with("\r\n\r\n"), "{part}");
    }
}

#[test]
fn keys_tell_files_and_places_apart() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks();
    let key = |blocks: &[Block], options: &AddOptions| {
        let path = folder.path().join("x.car");
        fs::write(&path, car(blocks).0).unwrap();
        look(&path, options).unwrap().key
    };
    let usual = AddOptions::default();
    let first = key(&blocks, &usual);
    assert_eq!(key(&blocks, &usual), first);
    assert_ne!(key(&blocks[..19], &usual), first, "shorter");
    let mut other = blocks.clone();
    other.swap(0, 1);
    assert_ne!(key(&other, &usual), first, "another root");
    assert_ne!(key(&blocks, &AddOptions { local: true, ..usual.clone() }), first);
    let mut named = usual.clone();
    named.pin.name = "n".into();
    assert_eq!(key(&blocks, &named), first, "where blocks go is the same");
    named.pin.replication_factor_max = 2;
    assert_ne!(key(&blocks, &named), first);
}

#[tokio::test]
async fn what_is_no_car_is_said_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&["127.0.0.1:1"]);
    fs::write(folder.path().join("text"), "this is not a car").unwrap();
    for (path, kind, text) in [
        ("missing", ErrorKind::NotFound, "no such file"),
        ("", ErrorKind::InvalidInput, "is a directory"),
        ("text", ErrorKind::InvalidInput, "text: "),
    ] {
        let error = client.resumable_car(folder.path().join(path), &AddOptions::default()).await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_file_that_became_shorter_ends_its_upload_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.car");
    fs::write(&path, [1; 1_000]).unwrap();
    let (chunks, _waiting) = mpsc::channel(4);
    let error = send(&path, 10, 1_001, &chunks).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("x.car became shorter"));
}
