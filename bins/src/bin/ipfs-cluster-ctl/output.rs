//! Where results go: stdout, as text or JSON, line by line as they arrive.

use std::io::{self, StdoutLock, Write as _};
use std::process::ExitCode;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ipfs_cluster::client::{Client, Lines, Request, Watch};
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

/// Puts the text of a JSON document behind what is there. After an error part of it may be there.
pub(crate) type Show = fn(&mut String, &str) -> serde_json::Result<()>;

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) encoding: Encoding,
    pub(crate) audience: Audience,
    /// What is printed and not written yet.
    text: String,
    stdout: StdoutLock<'static>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self {
            encoding: Encoding::default(),
            audience: Audience::default(),
            text: String::new(),
            stdout: io::stdout().lock(),
        }
    }

    /// Asks for one document and prints it. JSON is printed as the server sent it, also what this program does
    /// not know of.
    pub(crate) async fn fetch(&mut self, client: &Client, request: &Request, show: Show) -> Result<()> {
        let json: Box<RawValue> = client.fetch(request).await?;
        self.document(&json, show)
    }

    /// Asks for listings and prints their items as they arrive.
    pub(crate) async fn stream(
        &mut self,
        client: &Client,
        requests: impl IntoIterator<Item = Request>,
        show: Show,
    ) -> Result<()> {
        let show = self.shown(show);
        let mut portions = client.lines(requests);
        let mut progress = self.audience.listing();
        loop {
            let portion = match self.at_once(&mut portions).await? {
                Some(portion) => portion,
                None => {
                    progress.say_items();
                    portions.next().await
                }
            };
            let Some(portion) = portion else { return Ok(()) };
            let mut lines: Lines = portion?;
            while self.line(&mut lines, show)? {
                progress.item();
            }
        }
    }

    /// Prints the next line, if there is one.
    fn line(&mut self, lines: &mut Lines, show: Show) -> Result<bool> {
        let before = self.text.len();
        match lines.next_with(|json| show(&mut self.text, json)) {
            None => return Ok(false),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.text.truncate(before);
                return Err(error.into());
            }
        }
        self.write_if_much()?;
        Ok(true)
    }

    /// What comes next, if it is here. If not, whoever watches has seen what came so far.
    pub(crate) async fn at_once<T>(
        &mut self,
        items: &mut BoxStream<'static, T>,
    ) -> Result<Option<Option<T>>> {
        if let Some(item) = items.next().now_or_never() {
            return Ok(Some(item));
        }
        // What has arrived waits for the connection's turn.
        tokio::task::yield_now().await;
        let item = items.next().now_or_never();
        if item.is_none() {
            self.flush()?;
        }
        Ok(item)
    }

    /// Prints what happens, each thing as it comes.
    pub(crate) async fn watch(&mut self, client: &Client, watch: &Watch) -> Result<()> {
        let mut events: BoxStream<'static, ipfs_cluster::Result<Box<RawValue>>> = client.watch_as(watch);
        loop {
            let event = match self.at_once(&mut events).await? {
                Some(event) => event,
                None => events.next().await,
            };
            let Some(event) = event else { return Ok(()) };
            self.item(&event?, "an event", format::event)?;
        }
    }

    /// Asks for a page of a listing, prints its items, and gives where the next one begins.
    pub(crate) async fn page(
        &mut self,
        client: &Client,
        request: &Request,
        show: Show,
    ) -> Result<Option<String>> {
        let page = client.page::<Box<RawValue>>(request).await?;
        page.items.iter().try_for_each(|item| self.item(item, "an item of the page", show))?;
        // Whoever is told on stderr where to go on has seen the page.
        self.flush()?;
        Ok(page.next)
    }

    /// Prints one of many documents.
    pub(crate) fn item(&mut self, json: &RawValue, what: &str, show: Show) -> Result<()> {
        let wrong = |error| Failure::local("", format!("{what} is not what was expected: {error}"));
        self.print(json, show).map_err(wrong)?;
        self.write_if_much()
    }

    /// Prints a document that was kept as it came.
    pub(crate) fn document(&mut self, json: &RawValue, show: Show) -> Result<()> {
        self.print(json, show).map_err(unexpected)
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        self.write_if_much()
    }

    fn print(&mut self, json: &RawValue, show: Show) -> serde_json::Result<()> {
        let before = self.text.len();
        let printed = self.shown(show)(&mut self.text, json.get());
        if printed.is_err() {
            self.text.truncate(before);
        }
        printed
    }

    /// How a document is shown that is shown like this as text.
    fn shown(&self, show: Show) -> Show {
        match self.encoding {
            Encoding::Text => show,
            Encoding::Json => show_json,
        }
    }

    fn write_if_much(&mut self) -> Result<()> {
        if self.text.len() < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        let written = self.stdout.write_all(self.text.as_bytes());
        // Also what could not be written is done with.
        self.text.clear();
        // A document without an end of its own; lines are short.
        self.text.shrink_to(2 * BUFFER_BYTES);
        Ok(written?)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.write()?;
        Ok(self.stdout.flush()?)
    }

    /// Prints why it failed, if it did, and gives the exit code.
    pub(crate) fn finish(mut self, result: Result<()>) -> ExitCode {
        let result = result.and_then(|()| self.flush());
        let Err(failure) = result else { return ExitCode::SUCCESS };
        let exit_code = ExitCode::from(failure.exit_code());
        match failure {
            Failure::Local { doing, text, .. } => {
                // What was printed before comes first, where both go to one screen.
                let _ = self.flush();
                let _ = writeln!(io::stderr(), "error {doing}: {text}");
            }
            Failure::Answer(answer) => {
                let text = match self.encoding {
                    Encoding::Text => format::error(&answer),
                    Encoding::Json => error_json(&answer),
                };
                let _ = self.text(&text).and_then(|()| self.flush());
            }
            // What is still collected has no reader.
            Failure::ClosedPipe => {}
        }
        exit_code
    }
}

/// Reads a document as a type. One that is not is told as a refusal with code 200, as the client does.
pub(crate) fn parse<T: DeserializeOwned>(json: &RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(unexpected)
}

fn unexpected(error: serde_json::Error) -> Failure {
    let message = format!("the answer is not what was expected: {error}");
    Failure::Answer(Answer { code: 200, message })
}

fn show_json(text: &mut String, json: &str) -> serde_json::Result<()> {
    // Only what is JSON can be laid out.
    let json: &RawValue = serde_json::from_str(json)?;
    format::json(text, json.get());
    Ok(())
}

fn error_json(answer: &Answer) -> String {
    let mut text = String::new();
    // Two plain fields cannot fail to be written.
    format::json(&mut text, &serde_json::to_string(answer).unwrap_or_default());
    text
}
