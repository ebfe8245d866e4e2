//! The OpenAPI document of the API, made from the table of routes.
//!
//! A page of code for the little of OpenAPI that is needed, because the frameworks for it describe handlers of routers
//! that this API does not have.
//!
//! - `operations` says what each endpoint is. A new one does not compile without.
//! - `parameters`, `answers` and `schemas` hold what operations are made of.
//!
//! What cannot be said in OpenAPI 3.1 is said in extensions: `x-itemSchema` is the schema of each line of a stream, as
//! `itemSchema` in OpenAPI 3.2, and `x-trailers` describes fields behind the body as headers are described.

mod answers;
mod operations;
mod parameters;
mod schemas;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::operations::{Operation, operation};
use super::routes;

/// The document of a peer that has users, or has none.
pub(super) fn document(has_users: bool) -> Bytes {
    static DOCUMENTS: LazyLock<[Bytes; 2]> =
        LazyLock::new(|| [false, true].map(|has_users| format!("{}\n", build(has_users)).into()));
    DOCUMENTS[usize::from(has_users)].clone()
}

fn build(has_users: bool) -> Value {
    let mut paths = Map::new();
    for (method, parts, endpoint) in routes::all() {
        let operation = operation(endpoint);
        let path = paths.entry(template(parts, &operation)).or_insert_with(|| json!({}));
        path[method.as_str().to_ascii_lowercase()] = described(operation, has_users);
    }
    let schemes = json!({
        "basic": { "type": "http", "scheme": "basic" },
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "From POST /token" },
    });
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "IPFS Cluster",
            "version": crate::COMPATIBLE_VERSION,
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": security(has_users),
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "responses": answers::shared(),
            "securitySchemes": schemes,
        },
    })
}

const DESCRIPTION: &str = "The REST API of a peer, compatible with that of Go ipfs-cluster. Streams are JSON documents, one \
on each line; x-itemSchema is the schema of a line, and x-trailers are fields behind the body. Unknown parameters are \
ignored unless an operation says otherwise. A parameter that is there twice with different values is a 400.";

fn tags() -> Value {
    json!([
        { "name": "pins", "description": "The pinset, and where its CIDs stand" },
        { "name": "peers", "description": "The members of the cluster" },
        { "name": "content", "description": "Adding content" },
        { "name": "ipfs", "description": "The IPFS daemons" },
        { "name": "health", "description": "How the cluster is" },
        { "name": "tokens", "description": "Credentials" },
    ])
}

fn security(asked: bool) -> Value {
    if asked { json!([{ "basic": [] }, { "bearer": [] }]) } else { json!([]) }
}

/// The path of a route, with the names of what it captures.
fn template(parts: &[routes::Part], operation: &Operation) -> String {
    let mut names = operation.captured.iter().filter_map(|parameter| parameter["name"].as_str());
    let mut path = String::new();
    let mut push = |part: &str| {
        path.push('/');
        path.push_str(part);
    };
    let mut capture = || format!("{{{}}}", names.next().unwrap_or_default());
    for part in parts {
        match part {
            routes::Part::Is(name) => push(name),
            routes::Part::Any => push(&capture()),
            routes::Part::IpfsPath => [capture(), capture()].iter().for_each(|part| push(part)),
        }
    }
    path
}

fn described(operation: Operation, has_users: bool) -> Value {
    let Operation { id, tag, summary, description, captured, query, body, answers, open } = operation;
    let mut responses: Map<String, Value> =
        answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
    let mut always = vec![(400, "BadRequest"), (408, "TooSlow"), (431, "HeadTooLarge"), (503, "Busy")];
    if has_users && !open {
        always.push((401, "Unauthorized"));
    }
    for (status, name) in always {
        responses.entry(status.to_string()).or_insert_with(|| answers::a(name));
    }
    let parameters = [captured, query].concat();
    let mut described = json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    });
    if !description.is_empty() {
        described["description"] = description.into();
    }
    if let Some(body) = body {
        described["requestBody"] = body;
    }
    if open {
        described["security"] = json!([]);
    }
    described
}

#[cfg(test)]
mod tests;
