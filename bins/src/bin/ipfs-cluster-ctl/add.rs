//! `add`: what is uploaded, and how what became of it is shown.

use std::io::{self, Write as _};
use std::path::Path;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ipfs_cluster::client::{Client, ResumableCar, Upload};
use ipfs_cluster::types::cid::option_text;
use ipfs_cluster::types::{AddFormat, AddLayout, AddOptions, Cid, PinOptions, TrackerStatus};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::MissedTickBehavior;

use crate::args::Add;
use crate::commands::{WAITING, allocations, doing, expire_at, metadata, wait_until};
use crate::failure::{Answer, Failure, Result};
use crate::format;
use crate::output::{Encoding, Output, Show, parse};
use crate::progress::UploadBar;

/// Bytes of each shard, which the reference's tool sends although it cannot shard.
const SHARD_BYTES: u64 = 100 * 1024 * 1024;
/// Most bytes of lines that --no-stream keeps. More than ten million lines.
const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;
/// What stands for standard input, and the name it is added under.
const STDIN: &str = "-";
const STDIN_NAME: &str = "stdin";
const WHAT: &str = "a line of the answer";
const NOT_RESUMABLE: &str = "--resume needs a CAR file: what comes on standard input or from an address cannot be read from the middle";

/// Uploads, prints what was added, and waits if asked to.
pub(crate) async fn add(args: &Add, client: &Client, out: &mut Output) -> Result<()> {
    let (mut upload, mut options) = prepared(args)?;
    let mut from = 0;
    if args.resume {
        let car = resumable(args, &options, client, out).await?;
        (upload, options, from) = (car.upload, car.options, car.offset);
    }
    let uploaded = upload_and_print(args, upload, from, &options, client, out).await;
    if args.resume && uploaded.as_ref().is_err_and(|failure| !matches!(failure, Failure::ClosedPipe)) {
        // A closed stderr is no reason to fail otherwise.
        let _ = writeln!(io::stderr(), "The same command sends what did not arrive.");
    }
    let last = uploaded?;
    let Some(cid) = last.filter(|_| args.wait) else { return Ok(()) };
    out.flush()?;
    let limit = match client.allocation(&cid).await {
        Ok(pin) => pin.options.replication_factor_min,
        Err(_) => args.replication_min,
    };
    let progress = out.audience.progress();
    wait_until(&cid, TrackerStatus::Pinned, limit, args.wait_timeout, client, progress).await.map(drop)
}

/// What is uploaded and how, with the reference's rules of what implies what.
fn prepared(args: &Add) -> Result<(Upload, AddOptions)> {
    if args.paths.is_empty() {
        return Err(Failure::local("", "need at least one path"));
    }
    if args.wait && args.no_pin {
        return Err(Failure::local(WAITING, "there will be no pin with --no-pin; leave one of them out"));
    }
    let cid_version = if args.hash == AddOptions::default().hash { args.cid_version } else { 1 };
    let options = AddOptions {
        pin: PinOptions {
            replication_factor_min: args.replication_min,
            replication_factor_max: args.replication_max,
            name: args.name.clone(),
            shard_size: SHARD_BYTES,
            user_allocations: allocations(&args.allocations)?,
            expire_at: expire_at(args.expire_in.clone())?,
            metadata: metadata(&args.metadata)?,
            ..PinOptions::default()
        },
        format: match args.format.as_str() {
            "" | "unixfs" => AddFormat::UnixFs,
            "car" => AddFormat::Car,
            _ => return Err(refused("format parameter is invalid")),
        },
        layout: match args.layout.as_str() {
            "" | "balanced" => AddLayout::Balanced,
            "trickle" => AddLayout::Trickle,
            _ => return Err(refused("layout parameter is invalid")),
        },
        chunker: args.chunker.clone(),
        raw_leaves: Some(args.raw_leaves || cid_version > 0 || args.nocopy),
        cid_version,
        hash: args.hash.clone(),
        wrap: args.wrap_with_directory || args.paths.len() > 1,
        no_copy: args.nocopy,
        local: args.local,
        no_pin: args.no_pin,
        shard: false,
        progress: false,
        resume: None,
    };
    if options.wrap && options.format == AddFormat::Car {
        // Before any of the paths is looked at.
        let text = "only a single CAR file can be added and wrap-with-directory is not supported";
        return Err(Failure::local("", text));
    }
    if args.resume {
        if options.format != AddFormat::Car {
            return Err(Failure::local("", "--resume needs --format car"));
        }
        if args.paths[0] == Path::new(STDIN) || args.paths[0].to_str().is_some_and(is_url) {
            return Err(Failure::local("", NOT_RESUMABLE));
        }
    }
    let mut upload = Upload::new().recursive(args.recursive).hidden(args.hidden);
    for path in &args.paths {
        upload = if path == Path::new(STDIN) {
            upload.reader(STDIN_NAME, tokio::io::stdin())
        } else if let Some(url) = path.to_str().filter(|text| is_url(text)) {
            doing("", upload.url(url))?
        } else {
            upload.path(path)
        };
    }
    Ok((upload, options))
}

/// Finds out what of a CAR file is left to send, and tells.
async fn resumable(args: &Add, options: &AddOptions, client: &Client, out: &Output) -> Result<ResumableCar> {
    let [path] = &args.paths[..] else { return Err(Failure::local("", NOT_RESUMABLE)) };
    let mut progress = out.audience.progress();
    let looking = client.resumable_car(path, options);
    let car = progress.during("waiting until the peer has ended the upload before", looking).await?;
    drop(progress);
    let _ = match car.anew_because {
        Some(because) => writeln!(io::stderr(), "Beginning anew: {because}."),
        None if car.offset == 0 => Ok(()),
        None => {
            let (offset, bytes) = (car.offset, car.bytes);
            writeln!(io::stderr(), "Going on behind {offset} of {bytes} bytes, which have arrived.")
        }
    };
    Ok(car)
}

/// As a peer refuses it, which the reference's tool leaves this to.
fn refused(message: &str) -> Failure {
    Failure::Answer(Answer { code: 400, message: message.to_owned() })
}

fn is_url(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// Prints what was added as it comes, and gives the last CID, that of the whole.
async fn upload_and_print(
    args: &Add,
    upload: Upload,
    from: u64,
    options: &AddOptions,
    client: &Client,
    out: &mut Output,
) -> Result<Option<Cid>> {
    let sent = upload.sent();
    let mut bar = out.audience.upload(from);
    // Only for those who see it.
    let counting = out.audience.watches().then(|| tokio::spawn(upload.total_bytes()));
    let mut counting = futures::future::OptionFuture::from(counting).boxed();
    let mut total = None;
    let mut is_counted = !out.audience.watches();
    let mut lines: BoxStream<'static, ipfs_cluster::Result<Box<RawValue>>> = client.add_as(upload, options);
    let mut ticks = tokio::time::interval(UploadBar::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let mut printed = Printed::new(args);
    let ended = loop {
        let line = match printed.at_once(&mut lines, out).await {
            Some(line) => line,
            None => tokio::select! {
                biased;
                line = lines.next() => line,
                found = &mut counting, if !is_counted => {
                    (total, is_counted) = (found.and_then(|found| found.ok()).flatten(), true);
                    continue;
                }
                _ = ticks.tick(), if out.audience.watches() => {
                    bar.show(&sent, total);
                    continue;
                }
            },
        };
        match line {
            Some(Ok(line)) => {
                if let Err(failure) = bar.beside(|| printed.line(&line, out, bar.reads_along())) {
                    break Err(failure);
                }
            }
            Some(Err(error)) => break Err(error.into()),
            None => break Ok(()),
        }
    };
    drop(bar);
    printed.end(out, ended)
}

/// What of a line matters here. The rest of it is many times as long, and is not read in vain.
#[derive(Deserialize)]
struct Became {
    #[serde(default, with = "option_text")]
    cid: Option<Cid>,
}

/// What was printed, and what is kept to be printed later.
struct Printed<'a> {
    args: &'a Add,
    show: Show,
    kept: Vec<Box<RawValue>>,
    kept_bytes: usize,
    last: Option<(Cid, Box<RawValue>)>,
    /// Nobody reads it any more. What is being added is added nevertheless.
    is_closed: bool,
}

impl<'a> Printed<'a> {
    fn new(args: &'a Add) -> Self {
        let show: Show = if args.quiet || args.quieter { format::added_quiet } else { format::added };
        Self { args, show, kept: Vec::new(), kept_bytes: 0, last: None, is_closed: false }
    }

    /// What comes next, if it is here; if not, everybody sees what came so far.
    async fn at_once<T>(&mut self, lines: &mut BoxStream<'static, T>, out: &mut Output) -> Option<Option<T>> {
        match out.at_once(lines).await {
            Ok(line) => line,
            Err(_) => {
                self.is_closed = true;
                None
            }
        }
    }

    fn line(&mut self, line: &RawValue, out: &mut Output, is_at_once: bool) -> Result<()> {
        // Lines about progress are of no use here, and other peers may send some.
        let Some(cid) = parse::<Became>(line)?.cid else { return Ok(()) };
        self.last = Some((cid, line.to_owned()));
        if self.args.no_stream && !self.args.quieter {
            self.kept_bytes += line.get().len();
            if self.kept_bytes > KEPT_BYTES_MAX {
                let text = format!("more than {KEPT_BYTES_MAX} bytes of lines: leave --no-stream out");
                return Err(Failure::local("buffering the output", text));
            }
            self.kept.push(line.to_owned());
            return Ok(());
        }
        if self.args.quieter {
            return Ok(());
        }
        let written = out.item(line, WHAT, self.show);
        self.written(written)?;
        if is_at_once {
            let written = out.flush();
            self.written(written)?;
        }
        Ok(())
    }

    fn written(&mut self, written: Result<()>) -> Result<()> {
        match written {
            Err(Failure::ClosedPipe) => {
                self.is_closed = true;
                Ok(())
            }
            written => written,
        }
    }

    /// Prints what is left. After a failure there is no CID of the whole.
    fn end(mut self, out: &mut Output, ended: Result<()>) -> Result<Option<Cid>> {
        let (cid, line) = self.last.take().unzip();
        let mut kept = std::mem::take(&mut self.kept);
        if self.args.quieter && ended.is_ok() {
            kept.extend(line);
        }
        let printed = self.print(&kept, out);
        let printed = self.written(printed);
        ended.and(printed)?;
        if self.is_closed && !self.args.wait { Err(Failure::ClosedPipe) } else { Ok(cid) }
    }

    fn print(&self, kept: &[Box<RawValue>], out: &mut Output) -> Result<()> {
        if out.encoding == Encoding::Json && self.args.no_stream {
            if kept.is_empty() {
                return Ok(());
            }
            let array = serde_json::value::to_raw_value(kept);
            return out.document(&doing("generating json output", array)?, self.show);
        }
        kept.iter().try_for_each(|line| out.item(line, WHAT, self.show))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn options(line: &str) -> Result<AddOptions> {
        let argv = std::iter::once("ctl").chain(line.split(' ')).map(Into::into);
        let Ok(mut cli) = args::parse(argv) else { panic!("{line}") };
        let Some(args::Command::Add(add)) = cli.take_command() else { panic!("{line}") };
        prepared(&add).map(|(_, options)| options)
    }

    #[test]
    fn what_implies_what_is_as_in_the_reference() {
        let usual = options("add x").unwrap();
        let pin = PinOptions { shard_size: 104_857_600, ..PinOptions::default() };
        assert_eq!(usual, AddOptions { pin, raw_leaves: Some(false), ..AddOptions::default() });
        let brief = |line| {
            let options = options(line).unwrap();
            (options.wrap, options.cid_version, options.raw_leaves.unwrap())
        };
        for (line, wanted) in [
            ("add x y", (true, 0, false)),
            ("add -w x", (true, 0, false)),
            ("add --cid-version 1 x", (false, 1, true)),
            ("add --hash blake2b-256 x", (false, 1, true)),
            ("add --hash sha2-256 --raw-leaves x", (false, 0, true)),
            ("add --nocopy http://x/y", (false, 0, true)),
            ("add --cid-version -1 x", (false, -1, false)),
        ] {
            assert_eq!(brief(line), wanted, "{line}");
        }
        let all = options(
            "add -rmin 1 -rmax -1 -n name -metadata a=b -local -no-pin -layout trickle -s rabin -format unixfs -H -r x",
        );
        let all = all.unwrap();
        assert_eq!((all.pin.replication_factor_min, all.pin.replication_factor_max), (1, -1));
        assert_eq!((all.pin.name.as_str(), all.pin.metadata["a"].as_str()), ("name", "b"));
        assert!(all.local && all.no_pin && all.layout == AddLayout::Trickle && all.chunker == "rabin");
    }

    #[test]
    fn mistakes_are_told_as_in_the_reference() {
        let text = |line| match options(line).unwrap_err() {
            Failure::Local { doing, text, exit_code: 1 } => format!("error {doing}: {text}"),
            Failure::Answer(answer) => format!("{} {}", answer.code, answer.message),
            other => panic!("{other:?}"),
        };
        for (line, wanted) in [
            ("add", "error : need at least one path"),
            (
                "add --format car x y",
                "error : only a single CAR file can be added and wrap-with-directory is not supported",
            ),
            ("add --resume x", "error : --resume needs --format car"),
            ("add --resume --format car -", &format!("error : {NOT_RESUMABLE}")),
            ("add --resume --format car http://x/y.car", &format!("error : {NOT_RESUMABLE}")),
            ("add --format zip x", "400 format parameter is invalid"),
            ("add --layout flat x", "400 layout parameter is invalid"),
            ("add --metadata a x", "error parsing metadata: metadata were not in the format key=value"),
            ("add --allocs a x", "error decoding allocations: some peer IDs could not be decoded"),
            (
                "add --wait --no-pin x",
                "error waiting for pin status: there will be no pin with --no-pin; leave one of them out",
            ),
        ] {
            assert_eq!(text(line), wanted, "{line}");
        }
    }

    #[test]
    fn addresses_are_told_from_files() {
        for (text, wanted) in [
            ("http://x", true),
            ("HTTPS://x/y", true),
            ("http:", false),
            ("https", false),
            ("ftp://x", false),
            ("100%.txt", false),
            ("ü", false),
        ] {
            assert_eq!(is_url(text), wanted, "{text}");
        }
    }
}
