//! JSON as the reference prints it: four spaces for each level, `<`, `>` and `&` escaped.

/// Lays out a JSON document, which must be valid, and ends it with a line end. Numbers, names and the order of
/// fields stay as they are.
pub(crate) fn json(text: &mut String, document: &str) {
    let mut depth: usize = 0;
    // Inside of strings JSON has no letters below the space, outside they only lay out.
    let mut letters = document.chars().filter(|letter| *letter >= ' ').peekable();
    let mut in_string = false;
    while let Some(letter) = letters.next() {
        if in_string {
            match letter {
                '"' => in_string = false,
                '\\' => {
                    text.push(letter);
                    text.extend(letters.next());
                    continue;
                }
                _ => {}
            }
            match letter {
                '<' => text.push_str("\\u003c"),
                '>' => text.push_str("\\u003e"),
                '&' => text.push_str("\\u0026"),
                '\u{2028}' => text.push_str("\\u2028"),
                '\u{2029}' => text.push_str("\\u2029"),
                _ => text.push(letter),
            }
            continue;
        }
        match letter {
            ' ' => {}
            '"' => {
                in_string = true;
                text.push(letter);
            }
            '{' | '[' => {
                text.push(letter);
                while letters.next_if_eq(&' ').is_some() {}
                if let Some(end) = letters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    new_line(text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(text, depth);
                text.push(letter);
            }
            ',' => {
                text.push(letter);
                new_line(text, depth);
            }
            ':' => text.push_str(": "),
            _ => text.push(letter),
        }
    }
    text.push('\n');
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("    ", depth));
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
