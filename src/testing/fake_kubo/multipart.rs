//! The files of a `multipart/form-data` body.

use bytes::Bytes;

/// The files, none when the body is not what its type says.
pub(super) fn files(content_type: &str, body: &Bytes) -> Option<Vec<Bytes>> {
    let boundary = boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let mut files = Vec::new();
    let mut at = format!("--{boundary}").len();
    if !body.starts_with(&delimiter.as_bytes()[2..]) {
        return None;
    }
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Some(files);
        }
        let head = find(rest, b"\r\n\r\n")? + 4;
        let length = find(&rest[head..], delimiter.as_bytes())?;
        files.push(body.slice(at + head..at + head + length));
        at += head + length + delimiter.len();
    }
}

/// What is between the parts of such a body.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let boundary = content_type.strip_prefix("multipart/form-data")?.split("boundary=").nth(1)?;
    Some(boundary.split(';').next()?.trim().trim_matches('"'))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut at = 0;
    loop {
        at += haystack[at..].iter().position(|byte| byte == first)?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_out_exactly() {
        let head = "Content-Disposition: form-data; name=\"file\"\r\n\r\n";
        let body = Bytes::from(format!("--xy\r\n{head}one\r\n--x\r\n\r\n--xy\r\n{head}\r\n--xy--\r\n"));
        let cut = files("multipart/form-data; boundary=xy", &body).unwrap();
        assert_eq!(cut, [Bytes::from("one\r\n--x\r\n"), Bytes::new()]);
        for wrong in ["", "--xy", "--xy\r\nhead only", "--ab--\r\n"] {
            assert_eq!(files("multipart/form-data; boundary=xy", &Bytes::from(wrong)), None, "{wrong:?}");
        }
        assert_eq!(files("text/plain", &body), None);
    }
}
