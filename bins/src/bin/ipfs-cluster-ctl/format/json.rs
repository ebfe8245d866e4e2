//! JSON as the reference prints it: four spaces for each level, `<`, `>` and `&` escaped.

/// Lays out a JSON document, which must be valid, and ends it with a line end. Numbers, names and the order of
/// fields stay as they are.
pub(crate) fn json(text: &mut String, document: &str) {
    let bytes = document.as_bytes();
    // As much as is usual.
    text.reserve(document.len() * 2);
    let mut depth: usize = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'"' => at = string(text, document, at),
            b'{' | b'[' => {
                text.push(char::from(*byte));
                at += 1;
                let rest = &bytes[at..];
                let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                match rest.get(blanks) {
                    Some(end @ (b'}' | b']')) => {
                        text.push(char::from(*end));
                        at += blanks + 1;
                    }
                    _ => {
                        depth += 1;
                        new_line(text, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(text, depth);
                text.push(char::from(*byte));
                at += 1;
            }
            b',' => {
                text.push(',');
                new_line(text, depth);
                at += 1;
            }
            b':' => {
                text.push_str(": ");
                at += 1;
            }
            // A number, true, false or null.
            _ => {
                let is_of_word = |byte: &&u8| !matches!(byte, b',' | b'}' | b']' | b':' | b'"' | b'{' | b'[');
                let word = bytes[at..].iter().take_while(is_of_word).take_while(|byte| **byte > b' ');
                let end = at + word.count().max(1);
                text.push_str(document.get(at..end).unwrap_or_default());
                at = end;
            }
        }
    }
    text.push('\n');
}

/// What ends a string, or may have to be escaped in it: U+2028 and U+2029 begin with 0xe2, and little else does.
const IS_SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let special = [b'"', b'\\', b'<', b'>', b'&', 0xe2];
    let mut at = 0;
    while at < special.len() {
        table[special[at] as usize] = true;
        at += 1;
    }
    table
};

/// Copies the string that begins at `start`, and gives where it is over, behind its quotation mark.
fn string(text: &mut String, document: &str, start: usize) -> usize {
    let bytes = document.as_bytes();
    let (mut copied, mut at) = (start, start + 1);
    while let Some(byte) = bytes.get(at) {
        if !IS_SPECIAL[usize::from(*byte)] {
            at += 1;
            continue;
        }
        let (length, escaped) = match byte {
            b'"' => {
                at += 1;
                break;
            }
            b'<' => (1, "\\u003c"),
            b'>' => (1, "\\u003e"),
            b'&' => (1, "\\u0026"),
            // What is escaped already stays as it is.
            b'\\' => (2, ""),
            _ if bytes[at..].starts_with("\u{2028}".as_bytes()) => (3, "\\u2028"),
            _ if bytes[at..].starts_with("\u{2029}".as_bytes()) => (3, "\\u2029"),
            _ => (3, ""),
        };
        if !escaped.is_empty() {
            text.extend([document.get(copied..at).unwrap_or_default(), escaped]);
            copied = at + length;
        }
        at += length;
    }
    text.push_str(document.get(copied..at).unwrap_or_default());
    at
}

fn new_line(text: &mut String, depth: usize) {
    const SPACES: &str = "                                ";
    text.push('\n');
    let mut left = depth * 4;
    while left > 0 {
        let some = left.min(SPACES.len());
        text.push_str(&SPACES[..some]);
        left -= some;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(document: &str) -> String {
        let mut text = String::new();
        json(&mut text, document);
        text
    }

    #[test]
    fn documents_are_laid_out_as_the_reference_does() {
        for (document, wanted) in [
            ("{}", "{}\n"),
            (" [ \n ] ", "[]\n"),
            ("1.50e3", "1.50e3\n"),
            ("null", "null\n"),
            ("\"a<b>&c\"", "\"a\\u003cb\\u003e\\u0026c\"\n"),
            ("\"<\u{2028}–\u{2029}é\"", "\"\\u003c\\u2028–\\u2029é\"\n"),
            (r#""a\"b\\""#, "\"a\\\"b\\\\\"\n"),
            (
                r#"{"a":[],"b":{"c":[1,{"d":"x, y: {z}"}]}}"#,
                "{\n    \"a\": [],\n    \"b\": {\n        \"c\": [\n            1,\n            {\n                \"d\": \"x, y: {z}\"\n            }\n        ]\n    }\n}\n",
            ),
            (
                "{ \"a\" : 1 ,\t\"b\":\r\n[ true ] }",
                "{\n    \"a\": 1,\n    \"b\": [\n        true\n    ]\n}\n",
            ),
            ("[[],[[]]]", "[\n    [],\n    [\n        []\n    ]\n]\n"),
        ] {
            assert_eq!(laid_out(document), wanted, "{document}");
        }
    }

    #[test]
    fn laying_out_changes_no_value() {
        let document = r#"{"π":"\u00e9\n<&>","n":[-0.0,1e21,{"":{}}],"t":"\\\""}"#;
        let before: serde_json::Value = serde_json::from_str(document).unwrap();
        let after: serde_json::Value = serde_json::from_str(&laid_out(document)).unwrap();
        assert_eq!(before, after);
    }
}
