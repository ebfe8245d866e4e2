//! Where results go: stdout, as text or JSON, line by line as they arrive.

use std::io::{self, BufWriter, StdoutLock, Write as _};
use std::ops::Deref;
use std::process::ExitCode;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ipfs_cluster::client::{Client, Request, Watch};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::failure::{Answer, Failure, Result};
use crate::format;
use crate::progress::Audience;

/// Bytes that are collected before they are written. What is collected is also written whenever nothing more is
/// there to be printed yet.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Text,
    Json,
}

/// Puts the text of a value behind what is there.
pub(crate) type Show<T> = fn(&mut String, &T);

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) encoding: Encoding,
    pub(crate) audience: Audience,
    writer: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        let writer = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
        Self { encoding: Encoding::default(), audience: Audience::default(), writer }
    }

    /// Asks for one document and prints it. JSON is printed as the server sent it, also what this program does
    /// not know of.
    pub(crate) async fn fetch<T: DeserializeOwned>(
        &mut self,
        client: &Client,
        request: &Request,
        show: Show<T>,
    ) -> Result<()> {
        match self.encoding {
            Encoding::Text => {
                let value: T = client.fetch(request).await?;
                self.print(&value, show)
            }
            Encoding::Json => {
                let json: Box<RawValue> = client.fetch(request).await?;
                self.print(&json, show_json)
            }
        }
    }

    /// Asks for listings and prints their items as they arrive.
    pub(crate) async fn stream<T: DeserializeOwned + Send + 'static>(
        &mut self,
        client: &Client,
        requests: impl IntoIterator<Item = Request>,
        show: Show<T>,
    ) -> Result<()> {
        match self.encoding {
            Encoding::Text => self.items(client.stream(requests), show).await,
            Encoding::Json => self.items(client.stream::<Box<RawValue>>(requests), show_json).await,
        }
    }

    /// Prints what happens, each thing as it comes.
    pub(crate) async fn watch(&mut self, client: &Client, watch: &Watch) -> Result<()> {
        match self.encoding {
            Encoding::Text => self.items(client.watch(watch), format::event).await,
            Encoding::Json => self.items(client.watch_as::<Box<RawValue>>(watch), show_json).await,
        }
    }

    /// Asks for a page of a listing, prints its items, and gives where the next one begins.
    pub(crate) async fn page<T: DeserializeOwned + Send + 'static>(
        &mut self,
        client: &Client,
        request: &Request,
        show: Show<T>,
    ) -> Result<Option<String>> {
        let next = match self.encoding {
            Encoding::Text => {
                let page = client.page::<T>(request).await?;
                page.items.iter().try_for_each(|item| self.print(item, show))?;
                page.next
            }
            Encoding::Json => {
                let page = client.page::<Box<RawValue>>(request).await?;
                page.items.iter().try_for_each(|item| self.print(item, show_json))?;
                page.next
            }
        };
        // Whoever is told on stderr where to go on has seen the page.
        self.writer.flush()?;
        Ok(next)
    }

    /// Prints a document that was kept as it came.
    pub(crate) fn document<T: DeserializeOwned>(&mut self, json: &RawValue, show: Show<T>) -> Result<()> {
        match self.encoding {
            Encoding::Text => self.print(&parse::<T>(json)?, show),
            Encoding::Json => self.print(&json, show_json),
        }
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.writer.write_all(text.as_bytes()).map_err(Failure::from)
    }

    fn print<T>(&mut self, value: &T, show: Show<T>) -> Result<()> {
        let mut text = String::new();
        show(&mut text, value);
        self.text(&text)
    }

    async fn items<T>(
        &mut self,
        mut items: BoxStream<'static, ipfs_cluster::Result<T>>,
        show: Show<T>,
    ) -> Result<()> {
        let mut text = String::new();
        let mut progress = self.audience.listing();
        loop {
            let item = match items.next().now_or_never() {
                Some(item) => item,
                None => {
                    // Nothing to print for now: whoever watches shall see what came so far.
                    self.writer.flush()?;
                    progress.say_items();
                    items.next().await
                }
            };
            let Some(item) = item else { return Ok(()) };
            progress.item();
            text.clear();
            show(&mut text, &item?);
            self.text(&text)?;
        }
    }

    /// Prints why it failed, if it did, and gives the exit code.
    pub(crate) fn finish(mut self, result: Result<()>) -> ExitCode {
        let result = result.and_then(|()| self.writer.flush().map_err(Failure::from));
        let Err(failure) = result else { return ExitCode::SUCCESS };
        let exit_code = ExitCode::from(failure.exit_code());
        match failure {
            Failure::Local { doing, text, .. } => {
                // What was printed before comes first, where both go to one screen.
                let _ = self.writer.flush();
                let _ = writeln!(io::stderr(), "error {doing}: {text}");
            }
            Failure::Answer(answer) => {
                let text = match self.encoding {
                    Encoding::Text => format::error(&answer),
                    Encoding::Json => error_json(&answer),
                };
                let _ = self.text(&text).and_then(|()| self.writer.flush().map_err(Failure::from));
            }
            // Also what is still collected has no reader, so dropping it must not try to write it.
            Failure::ClosedPipe => drop(self.writer.into_parts()),
        }
        exit_code
    }
}

/// Reads a document as a type. One that is not is told as a refusal with code 200, as the client does.
pub(crate) fn parse<T: DeserializeOwned>(json: &RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|error| {
        Failure::Answer(Answer {
            code: 200,
            message: format!("the answer is not what was expected: {error}"),
        })
    })
}

fn show_json<J: Deref<Target = RawValue>>(text: &mut String, json: &J) {
    format::json(text, json.get());
}

fn error_json(answer: &Answer) -> String {
    let mut text = String::new();
    // Two plain fields cannot fail to be written.
    format::json(&mut text, &serde_json::to_string(answer).unwrap_or_default());
    text
}
