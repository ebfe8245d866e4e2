//! Lines as the reference's logger writes them.
//!
//! `<time>\t<LEVEL>\t<facility>\t<file>:<line>\t<message>`, and after another tab the fields as JSON; or all of it as one
//! JSON object. Whatever a line says, it is one line: control characters are shown, not sent to a terminal.

use std::fmt;

use ipfs_cluster::clock::{SystemClock, WallClock as _};
use ipfs_cluster::types::Timestamp;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::facility;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tabs, and levels in colour.
    Color,
    /// Tabs.
    Plain,
    /// An object.
    Json,
}

/// Writes lines as the reference's logger does.
#[derive(Clone, Debug)]
pub struct GoFormat {
    format: Format,
    labels: Vec<(String, String)>,
}

impl GoFormat {
    /// Lines of this form, each with these labels among its fields.
    pub fn new(format: Format, labels: Vec<(String, String)>) -> Self {
        Self { format, labels }
    }

    fn write(&self, to: &mut impl fmt::Write, line: Line<'_>, now: Timestamp) -> fmt::Result {
        let (upper, lower, color) = match line.level {
            Level::ERROR => ("ERROR", "error", 31),
            Level::WARN => ("WARN", "warn", 33),
            Level::INFO => ("INFO", "info", 34),
            _ => ("DEBUG", "debug", 35),
        };
        let time = time(now);
        let facility = facility(line.target);
        let name = match line.peer {
            Some(peer) => &*format!("{peer}/{facility}"),
            None => facility,
        };
        let caller = caller(line.file, line.line);
        let mut fields: Vec<(String, Value)> = Vec::new();
        if self.format == Format::Json {
            let own = [
                ("level", lower),
                ("ts", &time),
                ("logger", name),
                ("caller", &caller),
                ("msg", &line.message),
            ];
            fields.extend(own.map(|(key, value)| (key.to_owned(), value.into())));
        }
        fields.extend(self.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        for (mut key, value) in line.fields {
            // A field may have the name of something that every line has.
            while fields.iter().any(|(known, _)| *known == key) {
                key.push('_');
            }
            fields.push((key, value));
        }
        match self.format {
            Format::Json => {
                write_object(to, &fields)?;
                return to.write_char('\n');
            }
            Format::Color => write!(to, "{time}\t\u{1b}[{color}m{upper}\u{1b}[0m\t{name}\t{caller}\t")?,
            Format::Plain => write!(to, "{time}\t{upper}\t{name}\t{caller}\t")?,
        }
        for character in line.message.chars() {
            match character {
                '\t' => to.write_char('\t')?,
                shown if shown.is_control() => write!(to, "{}", shown.escape_default())?,
                other => to.write_char(other)?,
            }
        }
        if !fields.is_empty() {
            to.write_char('\t')?;
            write_object(to, &fields)?;
        }
        to.write_char('\n')
    }
}

/// As JSON, in the order given, without anything that a terminal obeys.
fn write_object(to: &mut impl fmt::Write, fields: &[(String, Value)]) -> fmt::Result {
    for (index, (key, value)) in fields.iter().enumerate() {
        to.write_char(if index == 0 { '{' } else { ',' })?;
        let text = format!("{}:{value}", Value::from(key.as_str()));
        for character in text.chars() {
            // JSON shows those of the first range by itself.
            if character.is_control() {
                write!(to, "\\u{:04x}", u32::from(character))?;
            } else {
                to.write_char(character)?;
            }
        }
    }
    to.write_char('}')
}

struct Line<'a> {
    level: Level,
    /// Which of several peers says it.
    peer: Option<&'a str>,
    target: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
    message: String,
    fields: Vec<(String, Value)>,
}

/// With milliseconds, always three digits.
fn time(now: Timestamp) -> String {
    let seconds = Timestamp::from_unix_seconds(now.unix_seconds()).to_string();
    let milliseconds = now.subsecond_nanoseconds() / 1_000_000;
    format!("{}.{milliseconds:03}Z", seconds.trim_end_matches('Z'))
}

/// The file with its folder, and the line.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let Some(file) = file else { return "unknown".to_owned() };
    let mut names = file.rsplit(['/', '\\']);
    let name = names.next().unwrap_or(file);
    let line = line.unwrap_or_default();
    match names.next() {
        Some(folder) => format!("{folder}/{name}:{line}"),
        None => format!("{name}:{line}"),
    }
}

impl<S, N> FormatEvent<S, N> for GoFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut read = Read::default();
        event.record(&mut read);
        for span in context.event_scope().into_iter().flatten() {
            let said = span.extensions().get::<FormattedFields<N>>().map(|said| said.fields.clone());
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                read.fields.push((span.name().to_owned(), said.into()));
            }
        }
        let metadata = event.metadata();
        let peer = super::thread_name();
        let line = Line {
            level: *metadata.level(),
            peer: peer.as_deref(),
            target: read.target.as_deref().unwrap_or(metadata.target()),
            file: read.file.as_deref().or(metadata.file()),
            line: read.line.or(metadata.line()),
            message: read.message,
            fields: read.fields,
        };
        self.write(&mut writer, line, SystemClock.now())
    }
}

/// What an event says. Those that come from the `log` crate have their place among their fields.
#[derive(Default)]
struct Read {
    message: String,
    fields: Vec<(String, Value)>,
    target: Option<String>,
    file: Option<String>,
    line: Option<u32>,
}

impl Read {
    fn put(&mut self, field: &Field, value: Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match field.name() {
            "message" => self.message = text(&value).unwrap_or_else(|| value.to_string()),
            "log.target" => self.target = text(&value),
            "log.file" => self.file = text(&value),
            "log.line" => self.line = value.as_u64().and_then(|line| u32::try_from(line).ok()),
            "log.module_path" => {}
            name => self.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, labels: &[(&str, &str)], line: Line<'_>) -> String {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut text = String::new();
        let now = Timestamp::from_unix_nanoseconds(1_795_216_505_007_000_000);
        GoFormat::new(format, labels).write(&mut text, line, now).unwrap();
        text
    }

    fn line(message: &str, fields: &[(&str, Value)]) -> Line<'static> {
        Line {
            peer: None,
            level: Level::INFO,
            target: "ipfs_cluster::cluster::tasks",
            file: Some("src/cluster/tasks.rs"),
            line: Some(109),
            message: message.to_owned(),
            fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        }
    }

    const READY: &str = "** IPFS Cluster is READY **";

    #[test]
    fn a_line_is_as_that_of_the_reference() {
        assert_eq!(
            written(Format::Plain, &[], line(READY, &[])),
            format!("2026-11-20T23:15:05.007Z\tINFO\tcluster\tcluster/tasks.rs:109\t{READY}\n")
        );
        assert_eq!(
            written(Format::Plain, &[("dc", "sjc")], line(READY, &[("peers", 3.into())])),
            format!(
                "2026-11-20T23:15:05.007Z\tINFO\tcluster\tcluster/tasks.rs:109\t{READY}\t{{\"dc\":\"sjc\",\"peers\":3}}\n"
            )
        );
        let mut error = line("no", &[]);
        error.level = Level::ERROR;
        assert_eq!(
            written(Format::Color, &[], error),
            "2026-11-20T23:15:05.007Z\t\u{1b}[31mERROR\u{1b}[0m\tcluster\tcluster/tasks.rs:109\tno\n"
        );
    }

    #[test]
    fn json_has_the_keys_of_the_reference() {
        let text = written(Format::Json, &[("dc", "sjc")], line("a\nb", &[("msg", "x".into())]));
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        assert!(
            text.starts_with("{\"level\":\"info\",\"ts\":\"2026-11-20T23:15:05.007Z\",\"logger\":"),
            "{text}"
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "level": "info", "ts": "2026-11-20T23:15:05.007Z", "logger": "cluster",
                "caller": "cluster/tasks.rs:109", "msg": "a\nb", "dc": "sjc", "msg_": "x"
            })
        );
    }

    #[test]
    fn what_others_say_stays_on_its_line_and_out_of_the_terminal() {
        let text =
            written(Format::Plain, &[], line("a\n2026\u{1b}[2Jb\u{9b}", &[("e", "c\r\u{9b}\nd".into())]));
        assert_eq!(text.lines().count(), 1);
        assert!(
            !text.trim_end_matches('\n').chars().any(|shown| shown.is_control() && shown != '\t'),
            "{text:?}"
        );
        assert!(text.contains("a\\n2026\\u{1b}[2Jb\\u{9b}"), "{text}");
    }
}
