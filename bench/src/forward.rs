//! A server that hands every body on as it comes, made of what our REST API and our way to the daemon are made of: hyper in
//! front, reqwest behind, the allocator of the service. What it forwards is the most that an upload could reach.
//!
//! ```text
//! forward 127.0.0.1:8080 http://127.0.0.1:5001/fake/sink
//! ```

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use reqwest::{Body, Client, Url};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let listen: SocketAddr = words.next().context("where to listen")?.parse()?;
    let to: Url = words.next().context("where bodies go")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let router = Router::new().fallback(post(forward)).with_state((Client::new(), to));
        Ok(axum::serve(listener, router).await?)
    })
}

async fn forward(
    State((client, to)): State<(Client, Url)>,
    request: Request,
) -> Result<String, (StatusCode, String)> {
    let body = Body::wrap_stream(request.into_body().into_data_stream());
    let sent = client.post(to).body(body).send().await.and_then(reqwest::Response::error_for_status);
    let answer = async { sent?.text().await }.await;
    answer.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
}
