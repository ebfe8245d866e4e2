//! The log: which lines, in which form, and where they go.
//!
//! Flags and variables are those of the reference: `--loglevel`, `IPFS_CLUSTER_LOG_LEVEL`, and of its logger
//! `GOLOG_LOG_LEVEL`, `GOLOG_LOG_FMT` (`color`, `nocolor`, `json`), `GOLOG_FILE`, `GOLOG_OUTPUT` (`stderr`, `stdout`,
//! `file`, joined by `+`) and `GOLOG_LOG_LABELS` (`key=value,key=value`).

mod format;
mod levels;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ipfs_cluster::config::Environment;
use ipfs_cluster::{Error, ErrorKind, Result};
use tracing_subscriber::EnvFilter;

pub use format::{Format, GoFormat};
pub use levels::{directives, facility};

thread_local! {
    static NAME: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Puts a name before the facility of everything that this thread logs, where a process runs several peers.
pub fn name_thread(name: &str) {
    NAME.set(Some(name.into()));
}

/// The name that was given to this thread.
fn thread_name() -> Option<Arc<str>> {
    NAME.with_borrow(Clone::clone)
}

type Aside = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// What puts aside what else is on the terminal.
static ASIDE: OnceLock<Box<Aside>> = OnceLock::new();

/// Has each line that goes to a terminal written by way of this, which puts aside what else it shows there, calls its
/// argument once, and shows it again. Only the first that is given counts.
pub fn write_aside(aside: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
    let _ = ASIDE.set(Box::new(aside));
}

/// What the environment says of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    /// None was named: by whether somebody looks at it.
    format: Option<Format>,
    levels: String,
    labels: Vec<(String, String)>,
    stderr: bool,
    stdout: bool,
    file: Option<PathBuf>,
}

impl Settings {
    /// As the reference's logger reads them: what it cannot understand is complained of and left out.
    fn read(environment: Environment<'_>, complain: &mut dyn FnMut(String)) -> Self {
        let text = |name: &str| environment(name).unwrap_or_default();
        let format = match text("GOLOG_LOG_FMT").as_str() {
            "" => None,
            "color" => Some(Format::Color),
            "nocolor" => Some(Format::Plain),
            "json" => Some(Format::Json),
            other => {
                complain(format!("ignoring unrecognized log format '{other}'"));
                None
            }
        };
        let file = Some(text("GOLOG_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (mut stderr, mut stdout) = (false, false);
        for output in text("GOLOG_OUTPUT").split('+') {
            match output {
                "stdout" => stdout = true,
                "stderr" => stderr = true,
                "file" if file.is_none() => {
                    complain("please specify a GOLOG_FILE value to write to".to_owned());
                }
                "" | "file" => {}
                other => complain(format!("ignoring unrecognized log output '{other}'")),
            }
        }
        if !stderr && !stdout {
            // With a file, nothing else.
            stderr = file.is_none();
        }
        let mut labels = Vec::new();
        for label in text("GOLOG_LOG_LABELS").split(',').filter(|label| !label.is_empty()) {
            match label.split_once('=') {
                Some((key, value)) if !value.contains('=') => labels.push((key.to_owned(), value.to_owned())),
                _ => complain(format!("invalid label k=v: {label}")),
            }
        }
        Self { format, levels: text("GOLOG_LOG_LEVEL"), labels, stderr, stdout, file }
    }
}

/// Begins the log of this process. Call it once.
///
/// # Errors
/// `InvalidInput` if the levels cannot be understood; `Io` naming a file that cannot be written; `Conflict` if there is
/// a log already.
pub fn start(debug: bool, levels: &str, environment: Environment<'_>) -> Result<()> {
    let mut complain = |text: String| eprintln!("{text}");
    let settings = Settings::read(environment, &mut complain);
    let directives = match debug {
        true => "debug".to_owned(),
        false => directives(levels, &settings.levels, &mut complain)?,
    };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|source| Error::invalid_input(format!("log level {levels:?}: {source}")))?;
    let file = settings.file.as_ref().map(|path| {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(Arc::new)
            .map_err(|source| Error::io(format!("opening the log file {}", path.display()), source))
    });
    let outputs = Outputs { stderr: settings.stderr, stdout: settings.stdout, file: file.transpose()? };
    let format = settings.format.unwrap_or_else(|| match outputs.is_terminal() {
        true => Format::Color,
        false => Format::Plain,
    });
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(filter)
        .event_format(GoFormat::new(format, settings.labels))
        .with_writer(move || outputs.clone())
        .try_init()
        .map_err(|source| Error::new(ErrorKind::Conflict, format!("starting the log: {source}")))
}

/// Where lines go. A line that cannot be written is lost: there is nobody to tell.
#[derive(Clone, Debug)]
struct Outputs {
    stderr: bool,
    stdout: bool,
    /// Opened for appending, so that each write is a whole line at the end.
    file: Option<Arc<File>>,
}

impl Outputs {
    fn write_streams(&self, line: &[u8]) {
        if self.stderr {
            let _ = io::stderr().write_all(line);
        }
        if self.stdout {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(line).and_then(|()| stdout.flush());
        }
    }

    fn is_terminal(&self) -> bool {
        (self.stderr && io::stderr().is_terminal()) || (self.stdout && io::stdout().is_terminal())
    }
}

impl io::Write for Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match ASIDE.get().filter(|_| self.is_terminal()) {
            Some(aside) => aside(&mut || self.write_streams(line)),
            None => self.write_streams(line),
        }
        if let Some(file) = &self.file {
            let _ = (&**file).write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let environment = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        };
        let mut complaints = Vec::new();
        let settings = Settings::read(&environment, &mut |text| complaints.push(text));
        (settings, complaints)
    }

    #[test]
    fn lines_go_to_standard_error_unless_the_environment_says_otherwise() {
        for (variables, stderr, stdout, file) in [
            (vec![], true, false, None),
            (vec![("GOLOG_FILE", "x.log")], false, false, Some("x.log")),
            (vec![("GOLOG_FILE", "x.log"), ("GOLOG_OUTPUT", "file+stderr")], true, false, Some("x.log")),
            (vec![("GOLOG_OUTPUT", "stdout")], false, true, None),
            (vec![("GOLOG_OUTPUT", "stdout+stderr")], true, true, None),
            (vec![("GOLOG_FILE", "x.log"), ("GOLOG_OUTPUT", "file")], false, false, Some("x.log")),
        ] {
            let (settings, complaints) = read(&variables);
            assert_eq!(
                (settings.stderr, settings.stdout, settings.file.as_deref()),
                (stderr, stdout, file.map(std::path::Path::new)),
                "{variables:?}"
            );
            assert!(complaints.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_understood_is_complained_of_and_left_out() {
        let (settings, complaints) = read(&[
            ("GOLOG_LOG_FMT", "xml"),
            ("GOLOG_OUTPUT", "file+printer"),
            ("GOLOG_LOG_LABELS", "app=cluster,dc,a=b=c"),
        ]);
        assert_eq!(settings.format, None);
        assert!(settings.stderr);
        assert_eq!(settings.labels, [("app".to_owned(), "cluster".to_owned())]);
        assert_eq!(
            complaints,
            [
                "ignoring unrecognized log format 'xml'",
                "please specify a GOLOG_FILE value to write to",
                "ignoring unrecognized log output 'printer'",
                "invalid label k=v: dc",
                "invalid label k=v: a=b=c"
            ]
        );
    }
}
