//! JSON that keeps what readers usually forget: the order of fields, how numbers are written, how characters are
//! escaped.

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// `null`, `true`, `false` and numbers, as they are written.
    Word(String),
    Text(Text),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// A string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Between the quotes.
    pub(crate) written: String,
}

impl Node {
    /// The documents of a body, one after the other.
    pub(crate) fn documents(text: &str) -> Result<Vec<Self>, String> {
        let mut reader = Reader { text, at: 0 };
        let mut documents = Vec::new();
        while reader.peek().is_some() {
            documents.push(reader.value()?);
        }
        Ok(documents)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Fields(fields) = self else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Fields(fields) => fields,
            _ => &[],
        }
    }

    /// As a server writes it: without spaces.
    pub(crate) fn write(&self) -> String {
        fn join(items: impl Iterator<Item = String>) -> String {
            items.collect::<Vec<_>>().join(",")
        }
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(text) => format!("\"{}\"", text.written),
            Self::List(items) => format!("[{}]", join(items.iter().map(Self::write))),
            Self::Fields(fields) => {
                let fields = fields.iter().map(|(name, value)| format!("\"{name}\":{}", value.write()));
                format!("{{{}}}", join(fields))
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        self.at = self.text.len() - rest.len();
        rest.chars().next()
    }

    fn eat(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn need(&mut self, expected: char) -> Result<(), String> {
        if self.eat(expected) { Ok(()) } else { Err(format!("no {expected:?} at byte {}", self.at)) }
    }

    fn value(&mut self) -> Result<Node, String> {
        match self.peek() {
            Some('{') => self.object(),
            Some('[') => self.array(),
            Some('"') => self.string().map(Node::Text),
            Some(_) => {
                let rest = &self.text[self.at..];
                let end = rest.find([',', ']', '}', ' ', '\n']).unwrap_or(rest.len());
                let word = &rest[..end];
                if serde_json::from_str::<serde_json::Value>(word).is_err() {
                    return Err(format!("{word:?} at byte {} is no JSON", self.at));
                }
                self.at += end;
                Ok(Node::Word(word.to_owned()))
            }
            None => Err("the text ends too early".to_owned()),
        }
    }

    fn object(&mut self) -> Result<Node, String> {
        self.need('{')?;
        let mut fields = Vec::new();
        while !self.eat('}') {
            if !fields.is_empty() {
                self.need(',')?;
            }
            self.peek();
            let name = self.string()?.value;
            self.need(':')?;
            fields.push((name, self.value()?));
        }
        Ok(Node::Fields(fields))
    }

    fn array(&mut self) -> Result<Node, String> {
        self.need('[')?;
        let mut items = Vec::new();
        while !self.eat(']') {
            if !items.is_empty() {
                self.need(',')?;
            }
            items.push(self.value()?);
        }
        Ok(Node::List(items))
    }

    fn string(&mut self) -> Result<Text, String> {
        self.need('"')?;
        let rest = &self.text[self.at..];
        let mut escaped = false;
        let end = rest.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let written = &rest[..end.ok_or("a string has no end")?];
        self.at += written.len() + 1;
        let value = serde_json::from_str(&format!("\"{written}\"")).map_err(|error| error.to_string())?;
        Ok(Text { value, written: written.to_owned() })
    }
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let text = "{\"b\":[1,-2.50,null],\"a\":\"x\\u0026\\\"y\\\\\",\"\":{},\"c\":[]}";
    let documents = Node::documents(&format!("{text}\n {text}\n")).unwrap();
    assert_eq!(documents.iter().map(Node::write).collect::<Vec<_>>(), [text, text]);
    assert_eq!(documents[0].get("a").and_then(Node::text), Some("x&\"y\\"));
    for broken in ["{", "{\"a\" 1}", "[1 2]", "nul", "\"a", "{1:2}"] {
        assert!(Node::documents(broken).is_err(), "{broken}");
    }
}
