//! The recorded pairs of a request and the reference's answer.

use super::node::Node;

/// A pair.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) api: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<String>,
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
        body: text(request, "body"),
        answer: answer(node.get("response").unwrap()),
    }
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
        chunks: node.get("chunks").map(|chunks| word(chunks)),
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
