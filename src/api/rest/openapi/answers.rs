//! The answers of operations: those of one kind, and the errors that many share.

use serde_json::{Value, json};

use super::schemas::{list, named};

/// What schemas of lines are called in OpenAPI 3.2, which this document will be once generators read it.
pub(super) const ITEM_SCHEMA: &str = "x-itemSchema";
/// Header fields behind the body; no version of OpenAPI has words for them.
const TRAILERS: &str = "x-trailers";

/// One document.
pub(super) fn document(description: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// No document.
pub(super) fn nothing(description: &str) -> Value {
    json!({ "description": description })
}

/// A stream of documents, one on each line.
pub(super) fn lines(description: &str, item: &str) -> Value {
    json!({
        "description": format!(
            "{description} One JSON document on each line. When something fails behind the first line, the trailer \
             X-Stream-Error says what; it is there and empty when all went well."
        ),
        "headers": { "Trailer": trailer() },
        "content": { "application/json": { ITEM_SCHEMA: named(item) } },
        TRAILERS: {
            "X-Stream-Error": {
                "description": "What went wrong, once for each error; empty when nothing did",
                "schema": { "type": "string" },
            },
        },
    })
}

fn trailer() -> Value {
    json!({
        "description": "Announces the trailer; left out with limit, which makes an answer that fails as a whole",
        "schema": { "const": "X-Stream-Error" },
    })
}

/// A stream of documents, or a page of it with a cursor to go on with.
pub(super) fn pages(description: &str, item: &str) -> Value {
    let mut lines = lines(description, item);
    lines["headers"]["X-Next-Cursor"] = cursor();
    lines
}

fn cursor() -> Value {
    json!({
        "description": "What after takes for the page behind this one; no header, no next page. A page may have fewer lines \
                        than its limit, or none, and not be the last.",
        "schema": { "type": "string", "format": "cursor" },
    })
}

/// No lines.
pub(super) fn no_lines(has_pages: bool) -> Value {
    let mut answer = json!({ "description": "No lines", "headers": { "Trailer": trailer() } });
    if has_pages {
        answer["headers"]["X-Next-Cursor"] = cursor();
    }
    answer
}

/// What happens, until the caller has enough.
pub(super) fn events() -> Value {
    let mut events = lines(
        "Begins at once and does not end by itself. As server-sent events, where the header Accept names them, each has its \
         cursor as id and a line's document as data.",
        "Event",
    );
    events["content"] = json!({
        "application/x-ndjson": { ITEM_SCHEMA: named("Event") },
        "text/event-stream": { "schema": { "type": "string" } },
    });
    events
}

/// What was added, as it is.
#[cfg(feature = "add")]
pub(super) fn added() -> Value {
    let mut added = lines("", "AddedOutput");
    added["description"] = "What was added, in the order in which it is done: one JSON document on each line, or an array of \
                            them with stream-channels=false. Directories come behind what is in them, and lines about \
                            progress have no cid."
        .into();
    added[TRAILERS]["X-Stream-Error"]["description"] =
        "What went wrong; not there when nothing did, and then all roots are in the pinset".into();
    added
}

/// A list in one document.
pub(super) fn array(description: &str, items: Value) -> Value {
    document(description, list(items))
}

fn error(description: &str, examples: &[&str]) -> Value {
    let mut answer = document(description, named("Error"));
    if !examples.is_empty() {
        let examples: serde_json::Map<_, _> = examples
            .iter()
            .enumerate()
            .map(|(number, text)| (format!("{}", number + 1), json!({ "summary": text })))
            .collect();
        answer["content"]["application/json"]["examples"] = Value::Object(examples);
    }
    answer
}

/// What the parts of the document that many share are called, and what they are.
pub(super) fn shared() -> Value {
    let plain = json!({ "schema": { "type": "string" } });
    let mut too_slow = error("The request did not come in time; as text when its head did not", &[]);
    too_slow["content"]["text/plain"] = plain.clone();
    let mut unauthorized = error("Nobody is let in with these credentials, or without any", &[]);
    unauthorized["headers"] = json!({
        "WWW-Authenticate": {
            "description": "How to say who calls, once for each way; left out where the peer has no users",
            "schema": { "type": "string" },
        },
    });
    let mut busy = error(
        "The peer is stopping, its queues are full, or too many passwords are being checked; nothing was done",
        &[],
    );
    busy["headers"] = json!({
        "Retry-After": { "description": "In seconds, where that is known", "schema": { "type": "string" } },
    });
    json!({
        "BadRequest": error("The request cannot be read; nothing was done", &[]),
        "Unauthorized": unauthorized,
        "NotFound": error("No such pin, or a path that is none", &[]),
        "TooSlow": too_slow,
        "TooLarge": error("The body is too large", &[]),
        "HeadTooLarge": {
            "description": "The head of the request is too large; the connection is closed",
            "content": { "text/plain": plain },
        },
        "Failed": error("The peer could not do it, or read the request but does not allow it", &[]),
        "Conflict": error("It is in use, or not as the request expects; nothing was done", &[]),
        "NotServed": error("The peer cannot do this", &[]),
        "Busy": busy,
    })
}

/// One of [`shared`].
pub(super) fn a(name: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{name}") })
}
