//! The recorded pairs of a request and the reference's answer.

use ipfs_cluster::types::{Block, Cid, car_header, car_section_head};
use multihash_codetable::{Code, MultihashDigest as _};

use super::node::Node;

/// A pair.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) api: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) answer: Answer,
}

/// The reference's answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Sorted, one entry for each value, without the date.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) chunks: Option<usize>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Text(String),
    Documents {
        documents: Vec<Node>,
        /// They are written here as they came, so that escapes can be compared.
        exact: bool,
    },
}

/// All pairs, in the order in which they were recorded.
pub(crate) fn all() -> Vec<Recording> {
    let file = Node::documents(include_str!("../data/rest-vectors.json")).unwrap().remove(0);
    file.get("vectors").unwrap().list().iter().map(recording).collect()
}

fn recording(node: &Node) -> Recording {
    let text = |node: &Node, name: &str| node.get(name).and_then(Node::text).map(str::to_owned);
    let request = node.get("request").unwrap();
    let mut headers = Vec::new();
    for (name, value) in request.get("headers").unwrap().fields() {
        let value = value.text().unwrap();
        // Long values are abbreviated.
        let value = match value.ends_with("...(10000 bytes)") {
            true => "a".repeat(10_000),
            false => value.to_owned(),
        };
        headers.push((name.clone(), value));
    }
    Recording {
        name: text(node, "name").unwrap(),
        api: text(node, "api").unwrap(),
        method: text(request, "method").unwrap(),
        path: text(request, "path").unwrap(),
        headers,
        body: text(request, "body").map(|body| sent(&body)),
        answer: answer(node.get("response").unwrap()),
    }
}

/// What was sent, where the recording only says what that was.
fn sent(body: &str) -> Vec<u8> {
    const END: &str = "\r\n--vecboundary0123456789--\r\n";
    if body.starts_with("multipart with one CARv1 file") {
        let head = "--vecboundary0123456789\r\nContent-Disposition: form-data; name=\"file\"; filename=\"dir.car\"\r\n\
                    Content-Type: application/octet-stream\r\n\r\n";
        return [head.as_bytes(), &car(), END.as_bytes()].concat();
    }
    let Some((begun, length)) = body.split_once("x...(") else { return body.as_bytes().to_vec() };
    let length: usize = length.trim_end_matches(" bytes)").parse().unwrap();
    let missing = length - begun.len() - END.len();
    // One of the files ends otherwise, as its CID tells.
    let last = if begun.contains("\"big2.bin\"") { "y" } else { "x" };
    format!("{begun}{}{last}{END}", "x".repeat(missing - 1)).into_bytes()
}

/// The folder of `add-dir` as `ipfs dag export` gives it.
fn car() -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag, bytes.len() as u8][..], bytes].concat();
    let block =
        |node: Vec<u8>| Block { cid: Cid::new_v0(Code::Sha2_256.digest(&node)).unwrap(), data: node.into() };
    let file = |text: &[u8]| {
        block(field(0x0a, &[&[8, 2][..], &field(0x12, text), &[0x18, text.len() as u8]].concat()))
    };
    let folder = |entries: &[(&str, &Block, usize)]| {
        let links = entries.iter().map(|(name, block, dag_bytes)| {
            let link = [
                field(0x0a, &block.cid.to_bytes()),
                field(0x12, name.as_bytes()),
                vec![0x18, *dag_bytes as u8],
            ];
            field(0x12, &link.concat())
        });
        block(links.chain([field(0x0a, &[8, 1])]).collect::<Vec<_>>().concat())
    };
    let (abc, def) = (file(b"abc\n"), file(b"def\n"));
    let sub = folder(&[("def.txt", &def, 12)]);
    let dir = folder(&[("abc.txt", &abc, 12), ("sub", &sub, 65)]);
    let mut car = car_header(&[dir.cid]);
    for block in [&dir, &abc, &sub, &def] {
        car.extend(car_section_head(&block.cid, block.data.len()));
        car.extend_from_slice(&block.data);
    }
    assert_eq!(
        (dir.cid.to_string().as_str(), car.len()),
        ("QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce", 373)
    );
    car
}

fn answer(node: &Node) -> Answer {
    let word = |node: &Node| match node {
        Node::Word(word) => word.parse().unwrap(),
        other => panic!("{other:?} is no number"),
    };
    let mut headers = Vec::new();
    for (name, values) in node.get("headers").map(Node::fields).unwrap_or_default() {
        let one = std::slice::from_ref(values);
        let values = if values.text().is_some() { one } else { values.list() };
        headers.extend(values.iter().map(|value| (name.to_lowercase(), value.text().unwrap().to_owned())));
    }
    headers.sort();
    let trailers = node.get("trailers").map(Node::list).unwrap_or_default().iter().map(|pair| {
        let [name, value] = pair.list() else { panic!("a trailer is a pair") };
        (name.text().unwrap().to_lowercase(), value.text().unwrap().to_owned())
    });
    Answer {
        status: word(node.get("status").unwrap()) as u16,
        headers,
        trailers: trailers.collect(),
        chunks: node.get("chunks").map(word),
        body: body(node),
    }
}

fn body(answer: &Node) -> Body {
    let Some(body) = answer.get("body") else { return Body::Text(String::new()) };
    let raw = body.get("raw").and_then(Node::text);
    match body.get("kind").and_then(Node::text).unwrap() {
        "empty" => Body::Text(String::new()),
        "text" => Body::Text(raw.or(body.get("value").and_then(Node::text)).unwrap().to_owned()),
        kind => {
            let documents = match (raw, kind) {
                (Some(raw), _) => Node::documents(raw).unwrap(),
                (None, "json") => vec![body.get("value").unwrap().clone()],
                (None, _) => body.get("values").unwrap().list().to_vec(),
            };
            if let Some(raw) = raw {
                // Other APIs than this leave the line's end away now and then.
                let written: String = documents.iter().map(Node::write).collect();
                assert_eq!(written, raw.replace('\n', ""), "the recording is not as servers write it");
            }
            Body::Documents { documents, exact: raw.is_some() }
        }
    }
}
