//! What a program printed, without what is of one run alone.

use crate::programs::Said;

/// What was printed, and how the program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    code: i32,
    out: Vec<String>,
    err: String,
}

pub(crate) fn printed(said: Said, names: &[(String, &'static str)], racing: bool) -> Printed {
    let normal = |text: &str| {
        let text = names.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own, name));
        let text = masked(&text);
        if racing { without_progress(&text) } else { text }
    };
    Printed { code: said.code, out: blocks(&normal(&said.out)), err: normal(&said.err) }
}

/// A text without how far operations are.
fn without_progress(text: &str) -> String {
    let mut without = text.to_owned();
    for status in ["PIN_QUEUED", "PINNING", "PINNED", "pin_queued", "pinning", "pinned"] {
        without = without.replace(status, "<progress>");
    }
    for attempts in 0..=9 {
        without = without.replace(&format!("Attempts: {attempts}"), "Attempts: <some>");
        without = without.replace(&format!("\"attempt_count\": {attempts}"), "\"attempt_count\": <some>");
    }
    without
}

/// Where two differ.
pub(crate) fn difference(theirs: &Printed, ours: &Printed) -> String {
    let mut lines = Vec::new();
    if theirs.code != ours.code {
        lines.push(format!("  exit code {} instead of {}", ours.code, theirs.code));
    }
    for (mark, one, other) in [("-", theirs, ours), ("+", ours, theirs)] {
        let missing = one.out.iter().filter(|block| !other.out.contains(block));
        lines.extend(missing.map(|block| format!("  {mark} {block:?}")));
        if theirs.err != ours.err {
            lines.push(format!("  {mark} on stderr: {:?}", one.err));
        }
    }
    lines.join("\n")
}

/// The entries of a listing, sorted, because servers list in any order: a line and those below it that are indented; in
/// JSON what is between two braces at the margin.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let json = text.starts_with(['{', '[']);
    for line in text.lines() {
        let begins =
            if json { matches!(line, "{" | "    {" | "  {") } else { !line.starts_with([' ', '\t']) };
        match blocks.last_mut() {
            Some(last) if !begins => {
                last.push('\n');
                last.push_str(line);
            }
            _ => blocks.push(line.to_owned()),
        }
    }
    if json && !text.contains('{') {
        // A list of names.
        blocks = text.split(',').map(|name| name.trim_matches(['[', ']', ' ', '\n']).to_owned()).collect();
    }
    blocks.sort();
    blocks
}

/// A text in which times, and numbers that depend on the time, are replaced.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut words = text.split_inclusive(|char: char| !is_time_like(char)).peekable();
    let mut after_date = false;
    while let Some(word) = words.next() {
        let end = word.trim_end_matches(|char: char| !is_time_like(char)).len();
        let (word, tail) = word.split_at(end);
        let name = match word.len() {
            19.. if is_date(&word[..10]) && word.as_bytes()[10] == b'T' && !word.starts_with("0001") => {
                "<time>"
            }
            10 if is_date(word) => "<date>",
            8 if after_date => "<time of day>",
            19 if is_number(word) => "<nanoseconds>",
            // What is left of 10 GB.
            10 if is_number(word) && word.starts_with("99999") => "<free>",
            _ => word,
        };
        after_date = name == "<date>";
        masked.push_str(name);
        masked.push_str(tail);
    }
    without_waits(&masked)
}

/// A text without how long metrics are still true, to the end of the line.
fn without_waits(text: &str) -> String {
    const WAIT: &str = "Expires in: ";
    let lines = text.split('\n').map(|line| match line.split_once(WAIT) {
        Some((before, _)) => format!("{before}{WAIT}<some>"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn is_number(word: &str) -> bool {
    word.chars().all(|char| char.is_ascii_digit())
}

/// `2026-11-20`.
fn is_date(word: &str) -> bool {
    let mut parts = word.split('-');
    let mut number = |digits: usize| parts.next().is_some_and(|part| part.len() == digits && is_number(part));
    number(4) && number(2) && number(2)
}

fn is_time_like(char: char) -> bool {
    char.is_ascii_digit() || matches!(char, '-' | ':' | '.' | 'T' | 'Z')
}

#[test]
fn times_are_masked_and_other_numbers_are_not() {
    let text = "a 2026-11-20T23:19:20.706294137Z, \"0001-01-01T00:00:00Z\" 1795216841348515432 12:5 T.\n";
    assert_eq!(masked(text), "a <time>, \"0001-01-01T00:00:00Z\" <nanoseconds> 12:5 T.\n");
    assert_eq!(masked("Exp: 2026-11-23 08:27:31 | 08:27:31"), "Exp: <date> <time of day> | 08:27:31");
    assert_eq!(masked("9999902582 0 Expires in: 2 seconds\na"), "<free> 0 Expires in: <some>\na");
    assert_eq!(blocks("b\n  c\na\n"), ["a", "b\n  c"]);
}
