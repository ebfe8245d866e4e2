use futures::stream;

use super::*;
use crate::error::ErrorKind;

const BOUNDARY: &str = "vecboundary0123456789";

/// Reads all of a body that comes in chunks of this size: paths, kinds and bytes.
async fn read(body: &[u8], chunk: usize) -> Result<Vec<(Entry, Vec<u8>)>> {
    read_with(body, chunk, Keep { mode: true, modified: true }).await
}

async fn read_with(body: &[u8], chunk: usize, keep: Keep) -> Result<Vec<(Entry, Vec<u8>)>> {
    let chunks: Vec<_> = body.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut content = Multipart::new(BOUNDARY, stream::iter(chunks).boxed()).keep(keep);
    let mut all = Vec::new();
    while let Some(entry) = content.next().await? {
        let mut bytes = Vec::new();
        while let Some(more) = content.read().await? {
            assert!(!more.is_empty());
            bytes.extend_from_slice(&more);
        }
        all.push((entry, bytes));
    }
    assert_eq!(content.next().await?, None);
    Ok(all)
}

fn part(head: &str, bytes: &str) -> String {
    format!("--{BOUNDARY}\r\n{head}\r\n\r\n{bytes}\r\n")
}

fn file(name: &str, bytes: &str) -> String {
    let head = format!(
        "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream"
    );
    part(&head, bytes)
}

fn directory(name: &str) -> String {
    let head = format!(
        "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: application/x-directory"
    );
    part(&head, "")
}

fn closed(parts: &[String]) -> Vec<u8> {
    format!("{}--{BOUNDARY}--\r\n", parts.concat()).into_bytes()
}

/// `path=bytes` of files, `path/` of directories, `path>target` of links.
fn shown(all: &[(Entry, Vec<u8>)]) -> Vec<String> {
    let one = |(entry, bytes): &(Entry, Vec<u8>)| match &entry.kind {
        EntryKind::File => format!("{}={}", entry.path, String::from_utf8_lossy(bytes)),
        EntryKind::Directory => format!("{}/", entry.path),
        EntryKind::Symlink(target) => format!("{}>{target}", entry.path),
    };
    all.iter().map(one).collect()
}

async fn whole(parts: &[String]) -> Vec<String> {
    let body = closed(parts);
    let all = shown(&read(&body, body.len()).await.unwrap());
    for chunk in [1, 2, 3, 7, 64, 1000] {
        assert_eq!(shown(&read(&body, chunk).await.unwrap()), all, "in chunks of {chunk}");
    }
    all
}

async fn refused(body: &[u8]) -> String {
    let error = read(body, body.len().max(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(read(body, 5).await.unwrap_err().message(), error.message());
    error.message().to_owned()
}

#[tokio::test]
async fn a_tree_is_read_as_the_references_clients_write_it() {
    let parts = [
        directory("dir"),
        file("dir%2Fabc.txt", "abc\n"),
        directory("dir%2Fsub"),
        file("dir%2Fsub%2Fdef.txt", "def\n"),
        part(
            "Content-Disposition: form-data; name=\"file\"; filename=\"dir%2Flink\"\r\nContent-Type: application/symlink",
            "sub/def.txt",
        ),
        file("plus+and%20more%2B", ""),
    ];
    let expected = [
        "dir/",
        "dir/abc.txt=abc\n",
        "dir/sub/",
        "dir/sub/def.txt=def\n",
        "dir/link>sub/def.txt",
        "plus and more+=",
    ];
    assert_eq!(whole(&parts).await, expected);
}

#[tokio::test]
async fn every_add_of_the_vectors_is_read() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/data/rest-vectors.json")).unwrap();
    let mut read_bodies = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let request = &vector["request"];
        let Some(body) = request["body"].as_str().filter(|body| body.ends_with("--\r\n")) else { continue };
        if body.contains("filename") {
            assert!(!read(body.as_bytes(), 50).await.unwrap().is_empty(), "{}", vector["name"]);
            read_bodies += 1;
        } else {
            assert!(refused(body.as_bytes()).await.contains("nothing in the upload"));
        }
    }
    assert!(read_bodies >= 25, "{read_bodies}");
}

#[tokio::test]
async fn directories_that_no_part_names_are_made_once() {
    let parts =
        [file("a%2Fb%2Fx", "1"), file("a%2Fb%2Fy", "2"), directory("a"), file("a%2Fz", "3"), file("ab", "4")];
    assert_eq!(whole(&parts).await, ["a/", "a/b/", "a/b/x=1", "a/b/y=2", "a/z=3", "ab=4"]);
}

#[tokio::test]
async fn whatever_looks_like_a_boundary_but_is_none_belongs_to_the_file() {
    let almost =
        format!("\r\n--{}\r\n\r\r\n-\r\n--\r\n--vecboundary012345678\r\n", &BOUNDARY[..BOUNDARY.len() - 1]);
    for bytes in
        [&almost[..], "\r", "\r\n", "\n", "--", &format!("--{}", &BOUNDARY[..5]), &format!("-{BOUNDARY}")]
    {
        assert_eq!(
            whole(&[file("f", bytes), file("g", bytes)]).await,
            [format!("f={bytes}"), format!("g={bytes}")]
        );
    }
}

#[tokio::test]
async fn odd_but_readable_parts_are_read() {
    // A boundary right behind a head, a preamble, padding, other fields, no name, no type.
    let body = format!(
        "hello\r\n--{BOUNDARY} \t\r\ncontent-disposition: attachment; filename=plain\r\nX: y\r\n\r\n--{BOUNDARY}\r\n\r\nstdin\
         \r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\\\"b;c\\d\"\r\n\r\n1\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=f; filename*=UTF-8''%c3%a4+\r\n\r\n2\r\n--{BOUNDARY}--bye"
    );
    for chunk in [1, 10, 10_000] {
        let all = shown(&read(body.as_bytes(), chunk).await.unwrap());
        assert_eq!(all, ["plain=", "=stdin", "a\"b;c\\d=1", "ä+=2"]);
    }
}

#[tokio::test]
async fn modes_times_and_origins_are_told() {
    let head = "Content-Disposition: form-data; name=\"file?mode=040000755&mtime=-7&mtime-nsecs=5\"; filename=\"a\"\r\n\
                Abspath-Encoded: %2Fhome%2Fa+b";
    let all = read(&closed(&[part(head, "x")]), 99).await.unwrap();
    let entry = &all[0].0;
    assert_eq!((entry.mode, entry.modified), (Some(0o4755), Some((-7, 5))));
    assert_eq!(entry.origin.as_deref(), Some("/home/a b"));
    let body = closed(&[part(head, "x")]);
    let entry = |all: Vec<(Entry, Vec<u8>)>| (all[0].0.mode, all[0].0.modified);
    assert_eq!(entry(read_with(&body, 99, Keep::default()).await.unwrap()), (None, None));
    let mode = Keep { mode: true, ..Keep::default() };
    assert_eq!(entry(read_with(&body, 99, mode).await.unwrap()), (Some(0o4755), None));
    for (field, text) in [
        ("mode=9", "mode of \"a\""),
        ("mtime=x", "mtime of \"a\""),
        ("mtime=1&mtime-nsecs=1000000000", "mtime-nsecs of"),
    ] {
        let head = format!("Content-Disposition: form-data; name=\"file?{field}\"; filename=\"a\"");
        assert!(refused(&closed(&[part(&head, "")])).await.starts_with(text));
    }
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_refused() {
    let (long, deep) = ("a".repeat(9000), "a/".repeat(600) + "a");
    for (name, text) in [
        ("..", "\".\" or \"..\""),
        ("a%2F..%2F..%2Fetc%2Fpasswd", "\".\" or \"..\""),
        (".%2Fa", "\".\" or \"..\""),
        ("%2Fetc%2Fpasswd", "is absolute"),
        ("/a", "is absolute"),
        ("a%2F%2Fb", "an empty name"),
        ("a%2F", "an empty name"),
        ("a%00b", "has a zero"),
        (&long[..], "has 9000 bytes"),
        (&deep[..], "is deeper than 512"),
    ] {
        let message = refused(&closed(&[file(name, "x")])).await;
        assert!(message.contains(text) && message.len() < 500, "{name}: {message}");
    }
    assert_eq!(whole(&[directory("a%2F"), file("a/b", "")]).await, ["a/", "a/b="]);
    assert!(refused(&closed(&[directory("")])).await.contains("has no name"));
}

#[tokio::test]
async fn a_body_that_breaks_off_anywhere_is_an_error() {
    let body = closed(&[file("a", "hello"), file("b%2Fc", "world")]);
    for length in 0..body.len() - 4 {
        let message = refused(&body[..length]).await;
        assert!(message.contains("unexpected EOF"), "{length}: {message}");
    }
    // Neither the closing line break nor what follows matters.
    assert_eq!(read(&body[..body.len() - 2], 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn hostile_heads_and_preambles_are_cut_off() {
    let field = "X-Field: 1\r\n";
    let many = format!("--{BOUNDARY}\r\n{}\r\n", field.repeat(40));
    assert!(refused(many.as_bytes()).await.contains("more than 32 fields"));
    let endless = |start: &str, bytes: &'static [u8]| {
        let start = Ok(Bytes::from(start.to_owned()));
        let more = stream::repeat_with(move || Ok(Bytes::from_static(bytes)));
        Multipart::new(BOUNDARY, stream::iter([start]).chain(more).boxed())
    };
    let start = format!("--{BOUNDARY}\r\n");
    for (start, bytes, text) in [
        (&start[..], &b"X-Endless: 1\r\n"[..], "larger than 49152 bytes"),
        ("", b"nothing at all", "does not begin with its boundary"),
        (&start[..start.len() - 2], b" ", "not followed by a line break"),
        (&start[..start.len() - 2], b"x", "not followed by a line break"),
    ] {
        let error = endless(start, bytes).next().await.unwrap_err();
        assert!(error.message().contains(text), "{error}");
    }
    let link =
        format!("{start}Content-Disposition: x; filename=a\r\nContent-Type: application/symlink\r\n\r\n");
    assert!(endless(&link, b"aaaaaaaa").next().await.unwrap_err().message().contains("longer than 4096"));
    for head in [
        "no field",
        "Content-Disposition: a; filename=\"x",
        "Content-Disposition: a; filename=x; filename=y",
        "Content-Disposition: a; filename=x\r\nContent-Disposition: a; filename=y",
        "Content-Disposition: a; =x",
        "Abspath-Encoded: %zz",
    ] {
        refused(&closed(&[part(head, "")])).await;
    }
}

#[tokio::test]
async fn an_error_of_the_body_is_given_as_it_is() {
    let start = Ok(Bytes::from(format!("--{BOUNDARY}\r\n\r\nabc")));
    let chunks = [start, Err(Error::new(ErrorKind::Unavailable, "gone"))];
    let mut content = Multipart::new(BOUNDARY, stream::iter(chunks).boxed());
    content.next().await.unwrap().unwrap();
    assert_eq!(content.read().await.unwrap().unwrap(), "abc");
    assert_eq!(content.read().await.unwrap_err().message(), "gone");
    assert!(content.read().await.unwrap().is_none() && content.next().await.unwrap().is_none());
}

#[test]
fn the_boundary_is_read_from_the_content_type() {
    assert_eq!(boundary(Some("multipart/form-data; boundary=abc")).unwrap(), "abc");
    assert_eq!(boundary(Some("Multipart/Form-Data;charset=x; Boundary=\"a b\"")).unwrap(), "a b");
    for (text, message) in [
        (None, "request Content-Type isn't multipart/form-data"),
        (Some(""), "request Content-Type isn't multipart/form-data"),
        (Some("text/plain; boundary=a"), "request Content-Type isn't multipart/form-data"),
        (Some("multipart/form-data; boundary"), "request Content-Type isn't multipart/form-data"),
        (Some("multipart/form-data"), "no multipart boundary param in Content-Type"),
        (Some("multipart/form-data; boundary="), "the boundary in Content-Type must have 1 to 200 bytes"),
    ] {
        assert_eq!(boundary(text).unwrap_err().message(), message);
    }
}
