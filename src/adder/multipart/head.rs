//! The head of a part: what it is, and where it belongs.

use super::{Keep, invalid};
use crate::error::Result;

/// Longest path of an entry, in bytes.
const PATH_BYTES_MAX: usize = 8 * 1024;
/// Most names in a path.
const PATH_DEPTH_MAX: usize = 512;
/// Longest origin of a file, in bytes.
const ORIGIN_BYTES_MAX: usize = 8 * 1024;
/// Most fields in a head.
const FIELDS_MAX: usize = 32;
/// Longest boundary, in bytes. Standards say 70.
const BOUNDARY_BYTES_MAX: usize = 200;

/// Seconds since 1970 and nanoseconds.
type Modified = Option<(i64, u32)>;

/// A part, but for its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Checked; empty for a part without a name.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) mode: Option<u32>,
    pub(super) modified: Modified,
    pub(super) origin: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
}

/// The boundary that the content type of a request names.
///
/// # Errors
/// `InvalidInput`, in the reference's words, when it is not that of a form.
pub fn boundary(content_type: Option<&str>) -> Result<String> {
    let not_multipart = || invalid("request Content-Type isn't multipart/form-data");
    let (kind, parameters) =
        value_and_parameters(content_type.ok_or_else(not_multipart)?).map_err(|_| not_multipart())?;
    if kind != "multipart/form-data" && kind != "multipart/mixed" {
        return Err(not_multipart());
    }
    match parameters.into_iter().find(|(name, _)| name == "boundary") {
        Some((_, boundary))
            if (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()) && !boundary.contains(['\r', '\n']) =>
        {
            Ok(boundary)
        }
        Some(_) => {
            Err(invalid(format!("the boundary in Content-Type must have 1 to {BOUNDARY_BYTES_MAX} bytes")))
        }
        None => Err(invalid("no multipart boundary param in Content-Type")),
    }
}

impl Head {
    /// Reads the lines of a head.
    pub(super) fn read(bytes: &[u8], keep: Keep) -> Result<Self> {
        let text =
            str::from_utf8(bytes).map_err(|_| invalid("the head of a part of the upload is not UTF-8"))?;
        let (mut disposition, mut content_type, mut origin, mut encoded_origin) = (None, None, None, None);
        for (number, line) in text.split("\r\n").filter(|line| !line.is_empty()).enumerate() {
            if number >= FIELDS_MAX {
                return Err(invalid(format!(
                    "the head of a part of the upload has more than {FIELDS_MAX} fields"
                )));
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(invalid("a line in the head of a part of the upload is no field"));
            };
            let fields = [
                ("content-disposition", &mut disposition),
                ("content-type", &mut content_type),
                ("abspath", &mut origin),
                ("abspath-encoded", &mut encoded_origin),
            ];
            let known = fields.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
            let Some((_, field)) = known else { continue };
            if field.replace(value.trim_matches([' ', '\t'])).is_some() {
                return Err(invalid(format!("a part of the upload has {name} more than once")));
            }
        }
        let kind = match content_type.map(value_and_parameters).transpose()? {
            Some((name, _)) if matches!(name.as_str(), "application/x-directory" | "multipart/form-data") => {
                Kind::Directory
            }
            Some((name, _)) if name == "application/symlink" => Kind::Symlink,
            _ => Kind::File,
        };
        let origin = match encoded_origin {
            Some(encoded) if !encoded.is_empty() => Some(
                unescape(encoded)
                    .ok_or_else(|| invalid("Abspath-Encoded of a part of the upload cannot be decoded"))?,
            ),
            _ => origin.filter(|origin| !origin.is_empty()).map(str::to_owned),
        };
        if origin.as_ref().is_some_and(|origin| origin.len() > ORIGIN_BYTES_MAX || origin.contains('\0')) {
            return Err(invalid(format!(
                "Abspath of a part of the upload is longer than {ORIGIN_BYTES_MAX} bytes or has zeros"
            )));
        }
        let (_, parameters) = disposition.map(value_and_parameters).transpose()?.unwrap_or_default();
        let parameter = |wanted: &str| {
            parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let path = match (parameter("filename"), parameter("filename*")) {
            (Some(name), _) => path(&unescape(name).unwrap_or_else(|| name.to_owned()), kind)?,
            (None, Some(extended)) => path(&extended_value(extended)?, kind)?,
            (None, None) => String::new(),
        };
        if path.is_empty() && kind != Kind::File {
            return Err(invalid("a directory or symbolic link in the upload has no name"));
        }
        let (mode, modified) = attributes(parameter("name").unwrap_or_default(), &path, keep)?;
        Ok(Self { path, kind, mode, modified, origin })
    }
}

/// Checks a path. It is never made to fit: what was meant would be a guess.
fn path(text: &str, kind: Kind) -> Result<String> {
    let refused = |why: &str| {
        let mut shown: String = text.chars().take(100).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Err(invalid(format!("the path {shown:?} in the upload {why}")))
    };
    let path = match kind {
        Kind::Directory => text.strip_suffix('/').unwrap_or(text),
        Kind::File | Kind::Symlink => text,
    };
    if path.len() > PATH_BYTES_MAX {
        return refused(&format!("has {} bytes, at most {PATH_BYTES_MAX} are taken", path.len()));
    }
    if path.contains('\0') {
        return refused("has a zero in it");
    }
    if path.starts_with('/') {
        return refused("is absolute; send it without a slash in front");
    }
    if path.is_empty() {
        return Ok(String::new());
    }
    for (number, name) in path.split('/').enumerate() {
        match name {
            "" => return refused("has an empty name in it"),
            "." | ".." => return refused("has \".\" or \"..\" in it"),
            _ if number >= PATH_DEPTH_MAX => {
                return refused(&format!("is deeper than {PATH_DEPTH_MAX} directories"));
            }
            _ => {}
        }
    }
    Ok(path.to_owned())
}

/// Mode and time, which stand behind a question mark in the name of the field.
fn attributes(field: &str, path: &str, keep: Keep) -> Result<(Option<u32>, Modified)> {
    let Some((_, query)) = field.split_once('?') else { return Ok((None, None)) };
    let value = |wanted: &str| query.split('&').find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='));
    let wrong = |name: &str, text: &str| {
        let text: String = text.chars().take(40).collect();
        invalid(format!("{name} of {path:?} in the upload is no number that can be one: {text:?}"))
    };
    let mode = match value("mode").filter(|_| keep.mode) {
        None => None,
        Some(text) => {
            let mode = u32::from_str_radix(text, 8).map_err(|_| wrong("mode", text))?;
            Some(permissions(mode)).filter(|mode| *mode != 0)
        }
    };
    let (seconds, nanoseconds) = (value("mtime"), value("mtime-nsecs"));
    if !keep.modified || (seconds.is_none() && nanoseconds.is_none()) {
        return Ok((mode, None));
    }
    let seconds = seconds.unwrap_or("0");
    let seconds = seconds.parse().map_err(|_| wrong("mtime", seconds))?;
    let nanoseconds = nanoseconds.unwrap_or("0");
    let is_possible = |number: &u32| *number < 1_000_000_000;
    let nanoseconds =
        nanoseconds.parse().ok().filter(is_possible).ok_or_else(|| wrong("mtime-nsecs", nanoseconds))?;
    Ok((mode, Some((seconds, nanoseconds))))
}

/// Unix permission bits of a mode as Go has it, whose special bits stand elsewhere.
fn permissions(mode: u32) -> u32 {
    const SET_USER: u32 = 1 << 23;
    const SET_GROUP: u32 = 1 << 22;
    const STICKY: u32 = 1 << 20;
    let special = [(SET_USER, 0o4000), (SET_GROUP, 0o2000), (STICKY, 0o1000)];
    special.into_iter().filter(|(go, _)| mode & go != 0).fold(mode & 0o7777, |bits, (_, unix)| bits | unix)
}

/// `form-data; name="file"; filename="a"` in parts; names and the value in front are in lower case.
fn value_and_parameters(text: &str) -> Result<(String, Vec<(String, String)>)> {
    let (value, mut rest) = text.split_once(';').unwrap_or((text, ""));
    let mut parameters: Vec<(String, String)> = Vec::new();
    let wrong = || invalid("a header of the upload has parameters that cannot be read");
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Ok((value.trim().to_ascii_lowercase(), parameters));
        }
        let (name, after) = rest.split_once('=').ok_or_else(wrong)?;
        let name = name.trim().to_ascii_lowercase();
        let parameter;
        (parameter, rest) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(wrong)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b";,\"".contains(&byte));
        if !is_name || parameters.len() >= FIELDS_MAX || parameters.iter().any(|(other, _)| *other == name) {
            return Err(wrong());
        }
        parameters.push((name, parameter));
    }
}

/// What stands before the closing quote, and what behind it. Like Go we take a backslash for itself unless it stands before
/// a character that would need one, because some send Windows paths as they are.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest.as_bytes())?;
        value.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest.as_bytes()[at] == b'"' {
            let behind = after.trim_start_matches([' ', '\t']);
            return (behind.is_empty() || after.trim_start().starts_with(';')).then_some((value, after));
        }
        match after.chars().next().filter(|next| "()<>@,;:\\\"/[]?=".contains(*next)) {
            Some(escaped) => {
                value.push(escaped);
                rest = &after[1..];
            }
            None => {
                value.push('\\');
                rest = after;
            }
        }
    }
}

/// `UTF-8''a%20b`.
fn extended_value(text: &str) -> Result<String> {
    let wrong = || invalid("filename* of a part of the upload cannot be decoded");
    let (charset, rest) = text.split_once('\'').ok_or_else(wrong)?;
    let (_, value) = rest.split_once('\'').ok_or_else(wrong)?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return Err(wrong());
    }
    // Here a plus is a plus.
    unescape(&value.replace('+', "%2B")).ok_or_else(wrong)
}

/// Undoes the encoding of queries, in which a plus is a space; None for what is not so encoded.
fn unescape(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let (pair, after) = rest.split_at_checked(2)?;
                let half = |byte: u8| char::from(byte).to_digit(16);
                decoded.push((half(pair[0])? << 4 | half(pair[1])?) as u8);
                rest = after;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok()
}
