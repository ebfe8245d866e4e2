//! Uploads: the bytes that the reference's client sends, and what goes wrong on the way.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::body::Outgoing;
use super::*;

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
/// Nobody listens here. A port that was free a moment ago may be another test's by now.
const NOBODY: &str = "127.0.0.1:1";
const PATIENCE: Duration = Duration::from_secs(120);
/// More than all buffers between a file and somebody who does not read.
const MUCH: u64 = 64 * 1024 * 1024;

/// One connection of a server: its request's head was read.
pub(super) struct Asked {
    pub(super) head: String,
    connection: TcpStream,
}

impl Asked {
    fn read(&mut self, until: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        while !until(&bytes) {
            match self.connection.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
        bytes
    }

    /// The body, without the frames of its chunks.
    pub(super) fn body(&mut self) -> Vec<u8> {
        let raw = self.read(|bytes| bytes.ends_with(b"\r\n0\r\n\r\n"));
        let (mut body, mut rest) = (Vec::new(), raw.as_slice());
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            let begin = end + 2;
            body.extend_from_slice(&rest[begin..rest.len().min(begin + size)]);
            rest = rest.get(begin + size + 2..).unwrap_or_default();
        }
        body
    }

    pub(super) fn say(&mut self, text: &str) {
        self.connection.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn begin(&mut self) {
        self.say(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\nConnection: close\r\n\r\n",
        );
    }

    pub(super) fn line(&mut self, name: &str) {
        let line = format!("{{\"name\":\"{name}\",\"cid\":\"{CID}\",\"size\":3}}\n");
        self.say(&format!("{:x}\r\n{line}\r\n", line.len()));
    }

    pub(super) fn end(&mut self, error: &str) {
        self.say(&format!("0\r\nX-Stream-Error: {error}\r\n\r\n"));
    }

    /// Closes as careful servers do: what was said can be read, although not everything was heard.
    pub(super) fn hang_up_slowly(mut self) {
        let _ = self.connection.shutdown(Shutdown::Write);
        self.read(|_| false);
    }
}

/// Runs each script for one connection, in order.
pub(super) fn server(scripts: Vec<Box<dyn FnOnce(Asked) + Send>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for script in scripts {
            let (mut connection, _) = listener.accept().unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            script(Asked { head: String::from_utf8(head).unwrap(), connection });
        }
    });
    host
}

fn serving(script: impl FnOnce(Asked) + Send + 'static) -> String {
    server(vec![Box::new(script)])
}

pub(super) fn client(hosts: &[&str]) -> Client {
    hosts.iter().fold(Client::builder(), |builder, host| builder.host(*host)).build().unwrap()
}

async fn added(client: &Client, upload: Upload) -> (Vec<String>, Option<Error>) {
    let mut lines = client.add(upload, &AddOptions::default());
    let mut names = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(line) = lines.try_next().await? {
            names.push(line.name);
        }
        Ok(())
    });
    let error = ended.await.expect("an upload ends").err();
    (names, error)
}

/// Bytes without an end.
fn endless() -> Upload {
    Upload::new().reader("endless", tokio::io::repeat(7))
}

/// A file that costs no space.
fn long_file(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

#[cfg(unix)]
mod golden {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    /// The tree that the recorded bodies are of.
    fn plant(root: &Path) {
        let tree = root.join("tree");
        for folder in ["sub dir", "empty", ".hidden-dir"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        let long = "q".repeat(300_000);
        let odd = "sub dir/ü&=+%~_-*'().bin";
        for (name, text, mode) in [
            ("a.txt", "hello\n", 0o640),
            (odd, "x", 0o600),
            (".hidden", "hidden", 0o600),
            (".hidden-dir/inside", "deep", 0o600),
            ("zero", "", 0o4755),
            ("sub dir/long", long.as_str(), 0o600),
            ("B", "B", 0o600),
        ] {
            fs::write(tree.join(name), text).unwrap();
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("../elsewhere/ü", tree.join("link")).unwrap();
        for (name, mode) in [("", 0o755), ("sub dir", 0o755), (".hidden-dir", 0o755), ("empty", 0o1777)] {
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let touch = |name: &str, tv_sec, tv_nsec| {
            let time = Timespec { tv_sec, tv_nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, tree.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        };
        let usual = ["a.txt", odd, ".hidden", ".hidden-dir/inside", "zero", "sub dir/long", "link"];
        for name in usual.into_iter().chain(["sub dir", ".hidden-dir", "empty"]) {
            touch(name, 1_580_702_706, 789_000_000);
        }
        touch("B", -2, 500_000_000);
        touch("", 978_307_200, 0);
    }

    fn recorded(body: &[u8], root: &Path, boundary: &str) -> String {
        let root = root.canonicalize().unwrap().to_str().unwrap().replace('/', "%2F");
        let body = std::str::from_utf8(body).unwrap().replace("@LONG@", &"q".repeat(300_000));
        body.replace("@ROOT@", &root).replace("@BOUNDARY@", boundary)
    }

    async fn sent(upload: Upload) -> (String, String) {
        let (told, heard) = mpsc::channel();
        let host = serving(move |mut asked| {
            told.send((asked.head.clone(), String::from_utf8(asked.body()).unwrap())).unwrap();
            asked.begin();
            asked.end("");
        });
        let (_, error) = added(&client(&[&host]), upload).await;
        assert!(error.is_none(), "{error:?}");
        heard.recv().unwrap()
    }

    fn boundary(head: &str) -> &str {
        let (_, rest) = head.split_once("multipart/form-data; boundary=").unwrap();
        rest.split_once('\r').unwrap().0
    }

    #[tokio::test]
    async fn a_tree_is_sent_as_the_references_client_sends_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        plant(&root);
        let upload = Upload::new()
            .path(root.join("./tree/"))
            .bytes("b y", "abc")
            .path(root.join("tree/link"))
            .recursive(true);
        let counted = upload.sent();
        let total = upload.total_bytes().await;
        let (head, body) = sent(upload).await;
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        assert!(!head.to_lowercase().contains("content-length"), "{head}");
        let wanted = recorded(include_bytes!("../testdata/upload-plain.body"), &root, boundary(&head));
        assert!(body == wanted, "{}\n--- instead of ---\n{}", body.replace('q', ""), wanted.replace('q', ""));
        assert_eq!((counted.bytes(), counted.is_all(), total), (300_011, true, Some(300_011)));

        let (head, body) = sent(Upload::new().path(root.join("tree")).recursive(true).hidden(true)).await;
        let wanted = recorded(include_bytes!("../testdata/upload-hidden.body"), &root, boundary(&head));
        assert!(body == wanted, "{}\n--- instead of ---\n{}", body.replace('q', ""), wanted.replace('q', ""));
    }

    #[tokio::test]
    async fn many_small_files_and_deep_folders_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().join("tree");
        for level in 0..200 {
            fs::create_dir_all(&deep).unwrap();
            for name in ["a", "b", "z"] {
                fs::write(deep.join(name), format!("{level}{name}")).unwrap();
            }
            deep.push("m");
        }
        let (_, body) = sent(Upload::new().path(folder.path().join("tree")).recursive(true)).await;
        let names: Vec<_> = body
            .split("filename=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().replace("%2F", "/"))
            .collect();
        assert_eq!(names.len(), 800);
        let depth = |name: &str| name.matches('/').count();
        // Folders come before what is in them, and what sorts behind a folder comes behind all that is in it.
        assert_eq!(names[..5], ["tree", "tree/a", "tree/b", "tree/m", "tree/m/a"]);
        assert_eq!(names[799], "tree/z");
        assert!(names[600..].windows(2).all(|pair| depth(&pair[0]) > depth(&pair[1])), "{:?}", &names[600..]);
    }

    #[tokio::test]
    async fn files_of_all_sizes_are_sent_whole_and_in_their_order() {
        // Kept and not kept until their turn comes, and where one becomes the other.
        const SIZES: [usize; 7] = [0, 1, 100_000, 65_535, 300, 65_536, 5_000];
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        let mut wanted = Vec::new();
        for number in 0..400 {
            let name = format!("tree/{:02}/{number:03}", number / 30);
            let text = number.to_string().repeat(SIZES[number % SIZES.len()]);
            let text = text[..SIZES[number % SIZES.len()]].to_owned();
            fs::create_dir_all(tree.join(format!("{:02}", number / 30))).unwrap();
            fs::write(folder.path().join(&name), &text).unwrap();
            wanted.push((name, text));
        }
        let upload = Upload::new().path(&tree).recursive(true);
        let counted = upload.sent();
        let (head, body) = sent(upload).await;
        let mut found = Vec::new();
        for part in body.split(&format!("--{}", boundary(&head))) {
            let Some((head, text)) = part.split_once("\r\n\r\n") else { continue };
            let (_, name) = head.split_once("filename=\"").unwrap();
            let name = name.split('"').next().unwrap().replace("%2F", "/");
            if head.contains("octet-stream") {
                found.push((name, text.strip_suffix("\r\n").unwrap().to_owned()));
            }
        }
        assert_eq!(found.len(), wanted.len());
        for ((name, text), (wanted_name, wanted_text)) in found.iter().zip(&wanted) {
            assert!(name == wanted_name && text == wanted_text, "{name} instead of {wanted_name}");
        }
        assert_eq!(counted.bytes(), wanted.iter().map(|(_, text)| text.len() as u64).sum::<u64>());
    }

    #[tokio::test]
    async fn what_is_no_file_ends_the_upload_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, tree.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let other = serving(|_| panic!("no other host is asked"));
        let host = serving(|mut asked| drop(asked.read(|_| false)));
        let client = client(&[&host, &other]);
        let (_, error) = added(&client, Upload::new().path(&tree).recursive(true)).await;
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("unrecognized file type for "), "{error}");
        // Named itself, nobody is asked at all.
        let (_, error) = added(&client, tree.join("pipe").into()).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn lines_come_while_the_content_is_still_being_sent() {
    let host = serving(|mut asked| {
        asked.read(|bytes| bytes.ends_with(b"first\r\n"));
        asked.begin();
        asked.line("one");
        asked.read(|bytes| bytes.ends_with(b"0\r\n\r\n"));
        asked.line("two");
        asked.end("");
    });
    let (mut input, output): (DuplexStream, _) = tokio::io::duplex(64);
    let mut lines = client(&[&host]).add(Upload::new().reader("r", output), &AddOptions::default());
    input.write_all(b"first").await.unwrap();
    assert_eq!(lines.try_next().await.unwrap().unwrap().name, "one");
    input.write_all(b"second").await.unwrap();
    drop(input);
    let last = lines.try_next().await.unwrap().unwrap();
    assert_eq!((last.name.as_str(), last.cid.unwrap().to_string(), last.size), ("two", CID.to_owned(), 3));
    assert!(lines.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn an_early_refusal_ends_the_upload() {
    for (status, code) in [("401 Unauthorized", 401), ("400 Bad Request", 400)] {
        let host = serving(move |mut asked| {
            let body = format!("{{\"code\":{code},\"message\":\"no\"}}");
            asked.say(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            asked.hang_up_slowly();
        });
        let (names, error) = added(&client(&[&host]), endless()).await;
        assert!(names.is_empty());
        assert_eq!(ApiError::of(&error.unwrap()), Some(&ApiError { code, message: "no".into() }));
    }
}

#[tokio::test]
async fn an_error_in_the_trailer_ends_the_upload_behind_its_lines() {
    let host = serving(|mut asked| {
        asked.begin();
        asked.line("one");
        asked.end("unrecognized chunker option: nope");
        asked.hang_up_slowly();
    });
    let (names, error) = added(&client(&[&host]), endless()).await;
    assert_eq!(names, ["one"]);
    let message = "unrecognized chunker option: nope".to_owned();
    assert_eq!(ApiError::of(&error.unwrap()), Some(&ApiError { code: 500, message }));
}

#[tokio::test]
async fn an_answer_that_ends_before_everything_was_sent_is_no_success() {
    let host = serving(|mut asked| {
        asked.begin();
        asked.line("one");
        asked.end("");
        asked.hang_up_slowly();
    });
    let (_, error) = added(&client(&[&host]), endless()).await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("before everything was sent"), "{error}");
}

#[tokio::test]
async fn an_upload_that_is_dropped_ends_its_connection() {
    let (told, heard) = mpsc::channel();
    let host = serving(move |mut asked| {
        asked.begin();
        asked.line("one");
        asked.read(|_| false);
        told.send(()).unwrap();
    });
    let mut lines = client(&[&host]).add(endless(), &AddOptions::default());
    lines.try_next().await.unwrap();
    drop(lines);
    let ended = tokio::task::spawn_blocking(move || heard.recv_timeout(PATIENCE));
    ended.await.unwrap().expect("the connection was closed");
}

#[tokio::test]
async fn the_next_host_gets_what_can_be_read_again() {
    let closed = NOBODY.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    long_file(&file, MUCH);
    let vanishing = || serving(|mut asked| drop(asked.read(|bytes| bytes.len() > 1_000_000)));
    let (told, heard) = mpsc::channel();
    let good = || {
        let told = told.clone();
        serving(move |mut asked| {
            told.send(asked.body().len()).unwrap();
            asked.begin();
            asked.line("file");
            asked.end("");
        })
    };
    let upload = Upload::from(file.as_path());
    let sent = upload.sent();
    let (names, error) = added(&client(&[&closed, &vanishing(), &good()]), upload).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((names, sent.bytes()), (vec!["file".to_owned()], MUCH));
    assert!(heard.recv().unwrap() as u64 > MUCH);

    // What was not read yet is as good.
    let reader = || Upload::new().reader("r", &b"bytes"[..]);
    let (_, error) = added(&client(&[&closed, &good()]), reader()).await;
    assert!(error.is_none(), "{error:?}");
    // What was read is not.
    let never = serving(|_| panic!("no other host is asked"));
    let (_, error) = added(&client(&[&vanishing(), &never]), endless()).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_middle_is_an_error_after_its_lines() {
    let (hang_up, wait) = mpsc::channel::<()>();
    let host = serving(move |mut asked| {
        asked.begin();
        asked.line("one");
        asked.read(|bytes| bytes.len() > 1_000_000);
        // What was said and not read is lost with a connection that is closed while more comes.
        wait.recv().unwrap();
    });
    let mut lines = client(&[&host]).add(endless(), &AddOptions::default());
    assert_eq!(lines.try_next().await.unwrap().unwrap().name, "one");
    hang_up.send(()).unwrap();
    let error = tokio::time::timeout(PATIENCE, lines.try_next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(ApiError::of(&error).is_none());
    assert!(lines.try_next().await.unwrap().is_none());
}

/// A folder whose first file fills every buffer, and a server that reads on only when the second one was changed.
async fn changed_meanwhile(change: impl FnOnce(&Path)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    long_file(&tree.join("a"), MUCH);
    long_file(&tree.join("b"), MUCH);
    let (go_on, wait) = mpsc::channel::<()>();
    let (told, asked_for) = tokio::sync::oneshot::channel();
    let host = serving(move |mut asked| {
        // The first file was opened then, and the folder was listed.
        asked.read(|bytes| bytes.len() > 100_000);
        told.send(()).unwrap();
        wait.recv().unwrap();
        asked.read(|_| false);
    });
    let client = client(&[&host]);
    let adding = tokio::spawn({
        let upload = Upload::from(tree.clone()).recursive(true);
        async move { added(&client, upload).await }
    });
    asked_for.await.unwrap();
    change(&tree);
    go_on.send(()).unwrap();
    adding.await.unwrap().1.unwrap()
}

#[tokio::test]
async fn a_file_that_vanishes_ends_the_upload_by_name() {
    let error = changed_meanwhile(|tree| fs::remove_file(tree.join("b")).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.starts_with("lstat ") && text.ends_with("/tree/b: no such file or directory"), "{text}");
}

#[tokio::test]
async fn a_file_that_becomes_shorter_ends_the_upload_by_name() {
    let shorten =
        |tree: &Path| fs::File::options().write(true).open(tree.join("a")).unwrap().set_len(5).unwrap();
    let error = changed_meanwhile(shorten).await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("became shorter while it was read: "), "{error}");
}

#[tokio::test]
async fn what_cannot_be_added_is_said_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/file"), "").unwrap();
    fs::write(at("file"), "").unwrap();
    let usual = AddOptions::default();
    let wrap = AddOptions { wrap: true, format: AddFormat::Car, ..usual.clone() };
    let car = AddOptions { format: AddFormat::Car, ..usual.clone() };
    let no_copy = AddOptions { no_copy: true, ..usual.clone() };
    let file = || Upload::from(at("file"));
    for (upload, options, kind, text) in [
        (Upload::new(), &usual, ErrorKind::InvalidInput, "need at least one path"),
        (file(), &wrap, ErrorKind::InvalidInput, "only a single CAR file"),
        (file().bytes("other", ""), &car, ErrorKind::InvalidInput, "only a single CAR file"),
        (
            file().bytes("other", ""),
            &no_copy,
            ErrorKind::InvalidInput,
            "nocopy option is only valid for files and URLs",
        ),
        (file().path(at("dir/file")), &usual, ErrorKind::InvalidInput, "two paths are both called file"),
        (
            at("dir/").into(),
            &usual,
            ErrorKind::InvalidInput,
            "/dir is a directory, but Recursive option is not set",
        ),
        (at("missing").into(), &usual, ErrorKind::NotFound, "/missing: no such file or directory"),
        (Path::new("/").into(), &usual, ErrorKind::InvalidInput, "/ has no name to be added under"),
    ] {
        let never = serving(|_| panic!("nobody is asked"));
        let error = client(&[&never]).add(upload, options).try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    for url in ["ftp://example.com/x", "no address", "http://"] {
        let error = Upload::new().url(url).unwrap_err();
        assert!(error.to_string().starts_with("error parsing path: "), "{error}");
    }
}

#[tokio::test]
async fn a_url_is_fetched_while_it_is_sent() {
    async fn sent(answer: &'static str) -> (String, Option<Error>) {
        let origin = serving(move |mut asked| {
            assert!(asked.head.starts_with("GET /a/b%20c?d=e HTTP/1.1\r\n"), "{}", asked.head);
            asked.say(answer);
        });
        let (told, heard) = mpsc::channel();
        let host = serving(move |mut asked| {
            told.send(String::from_utf8(asked.body()).unwrap()).unwrap();
            asked.begin();
            asked.end("");
        });
        let upload = Upload::new().url(&format!("http://{origin}/a/b%20c?d=e")).unwrap();
        let error = added(&client(&[&host]), upload).await.1;
        (heard.recv_timeout(PATIENCE).unwrap_or_default().replace(&origin.replace(':', "%3A"), "@"), error)
    }
    let (body, error) = sent("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(error.is_none(), "{error:?}");
    assert!(body.contains("Abspath-Encoded: http%3A%2F%2F@%2Fa%2Fb%2520c%3Fd%3De\r\n"), "{body}");
    assert!(
        body.contains("name=\"file\"; filename=\"b+c\"\r\n") && body.contains("\r\n\r\nabc\r\n--"),
        "{body}"
    );

    let (_, error) = sent("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc").await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("got non-2XX status code 404: http://127.0.0.1:"), "{error}");
    // Half of it is not it.
    let (_, error) = sent("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Io);
}

#[test]
fn urls_are_added_under_their_last_name() {
    for (url, name) in [
        ("http://h/a/b", "b"),
        ("http://h/a/b/", "b"),
        ("http://h:1/a%20b?c=d#e", "a b"),
        ("http://h/a%2Fb", "b"),
        ("http://h/%C3%BC", "ü"),
        ("http://h/100%", "100%"),
        ("http://h/", "h"),
        ("http://h", "h"),
        ("http://h/a%2F..", "h"),
    ] {
        assert_eq!(name_of(&Url::parse(url).unwrap()), name.as_bytes(), "{url}");
    }
}

#[test]
fn paths_are_added_under_their_last_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("a/b")).unwrap();
    for (path, wanted, name) in [
        ("a/./b/", "a/b", "b"),
        ("a/b/..", "a", "a"),
        ("a/../a/b/.", "a/../a/b", "b"),
        ("missing", "missing", "missing"),
    ] {
        let named = walk::named(&root.join(path)).unwrap();
        assert_eq!(named, Named { path: root.join(wanted), name: name.as_bytes().to_vec() }, "{path}");
    }
    assert_eq!(walk::named(Path::new("./x/")).unwrap().path, Path::new("x"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(walk::named(Path::new(".")).unwrap().path, here.canonicalize().unwrap());
}

#[tokio::test]
async fn a_body_that_was_given_up_ends_with_an_error() {
    use http_body_util::BodyExt as _;
    let body: Outgoing = endless().prepare(&AddOptions::default()).await.unwrap();
    let mut open = body.open();
    let guard = body.guard();
    for _ in 0..3 {
        assert!(open.frame().await.unwrap().is_ok());
    }
    drop(guard);
    let ended = tokio::time::timeout(PATIENCE, async { while open.frame().await.unwrap().is_ok() {} });
    ended.await.unwrap();
    assert!(open.frame().await.is_none());
    assert_eq!(body.failure().unwrap().kind(), ErrorKind::Cancelled);
    assert!(!body.is_whole() && !body.is_complete());
}
