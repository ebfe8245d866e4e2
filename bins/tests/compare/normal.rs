//! What a program printed, without what is of one run alone.

use crate::programs::Said;

/// What was printed, and how the program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    code: i32,
    out: Vec<String>,
    err: String,
}

pub(crate) fn printed(said: Said, names: &[(String, &'static str)]) -> Printed {
    let normal = |text: &str| {
        let text = names.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own, name));
        masked(&text)
    };
    Printed { code: said.code, out: blocks(&normal(&said.out)), err: normal(&said.err) }
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
    blocks.sort();
    blocks
}

/// A text in which times, and numbers too long to be anything else, are replaced.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word: &str = &rest[..rest.find(|char: char| !is_time_like(char)).unwrap_or(rest.len())];
        let digits = word.chars().filter(char::is_ascii_digit).count();
        if word.len() >= 19 && word.as_bytes()[4] == b'-' && word.contains('T') && !word.starts_with("0001") {
            masked.push_str("<time>");
            rest = &rest[word.len()..];
        } else if digits == 19 && word.len() == 19 {
            masked.push_str("<nanoseconds>");
            rest = &rest[word.len()..];
        } else if word.is_empty() {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            masked.push_str(word);
            rest = &rest[word.len()..];
        }
    }
    masked
}

fn is_time_like(char: char) -> bool {
    char.is_ascii_digit() || matches!(char, '-' | ':' | '.' | 'T' | 'Z')
}

#[test]
fn times_are_masked_and_other_numbers_are_not() {
    let text = "a 2026-11-20T23:19:20.706294137Z, \"0001-01-01T00:00:00Z\" 1795216841348515432 12:5 T.";
    assert_eq!(masked(text), "a <time>, \"0001-01-01T00:00:00Z\" <nanoseconds> 12:5 T.");
    assert_eq!(blocks("b\n  c\na\n"), ["a", "b\n  c"]);
}
