//! Reads Rust sources as text, just well enough to say which modules a path in them touches.

use std::collections::{BTreeMap, BTreeSet};

use super::CONTRACTS;

/// The names on the way from the crate's root to a module.
pub(crate) type Module = Vec<String>;

#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: Vec<(String, Module)>,
    scopes: BTreeMap<Module, Scope>,
    pub(crate) references: Vec<Reference>,
    pub(crate) implements: Vec<Implements>,
    /// Modules that exist for tests alone.
    test_modules: BTreeSet<Module>,
}

/// What a module's names stand for.
#[derive(Debug, Default)]
struct Scope {
    items: BTreeSet<String>,
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// A path somewhere in the code, as it is written.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) module: Module,
    pub(crate) names: Vec<String>,
    pub(crate) is_re_export: bool,
}

#[derive(Debug)]
pub(crate) struct Implements {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) module: Module,
    pub(crate) contract: String,
}

/// Imports that lead in a circle end after this many steps.
const STEPS_MAX: usize = 16;

impl Sources {
    pub(crate) fn read(&mut self, path: &str, text: &str) {
        let module = module_of(path);
        self.files.push((path.to_owned(), module.clone()));
        Reader { path, tokens: &tokens(text), module, sources: self }.read();
    }

    pub(crate) fn forget_tests(&mut self) {
        let test_modules = std::mem::take(&mut self.test_modules);
        let is_test =
            |module: &Module| (0..=module.len()).any(|length| test_modules.contains(&module[..length]));
        self.files.retain(|(_, module)| !is_test(module));
        self.references.retain(|reference| !is_test(&reference.module));
        self.implements.retain(|implements| !is_test(&implements.module));
        self.scopes.retain(|module, _| !is_test(module));
    }

    /// The modules that a path touches: every one that re-exports it on the way, and the one where it ends. None when
    /// the path leads out of the crate.
    pub(crate) fn resolve(&self, from: &Module, names: &[String]) -> Vec<Module> {
        let mut touched = Vec::new();
        self.walk(from, names, STEPS_MAX, &mut touched);
        touched
    }

    fn walk(&self, from: &Module, names: &[String], steps: usize, touched: &mut Vec<Module>) {
        let Some(steps) = steps.checked_sub(1) else { return };
        let mut at = from.clone();
        let mut rest = names;
        match rest.first().map(String::as_str) {
            Some("crate") => (at, rest) = (Module::new(), &rest[1..]),
            Some("self") => rest = &rest[1..],
            Some("super") => {}
            Some(name) if self.defines(from, name, steps) => {}
            _ => return,
        }
        while rest.first().is_some_and(|name| name == "super") {
            at.pop();
            rest = &rest[1..];
        }
        while let Some((name, after)) = rest.split_first() {
            let child = joined(&at, std::slice::from_ref(name));
            if self.scopes.contains_key(&child) {
                (at, rest) = (child, after);
                continue;
            }
            if let Some((module, names)) = self.import(&at, name, steps) {
                self.walk(&module, &joined(&names, after), steps, touched);
            }
            break;
        }
        touched.push(at);
    }

    /// Where an imported name comes from: the names to follow, and the module to start in.
    fn import(&self, module: &Module, name: &str, steps: usize) -> Option<(Module, Vec<String>)> {
        let steps = steps.checked_sub(1)?;
        let scope = self.scopes.get(module)?;
        if let Some(names) = scope.imports.get(name) {
            return Some((module.clone(), names.clone()));
        }
        if scope.items.contains(name) {
            return None;
        }
        scope.globs.iter().find_map(|glob| {
            let target = self.glob_target(module, glob, steps)?;
            self.defines(&target, name, steps).then(|| (target, vec!["self".to_owned(), name.to_owned()]))
        })
    }

    fn glob_target(&self, module: &Module, glob: &[String], steps: usize) -> Option<Module> {
        let mut touched = Vec::new();
        self.walk(module, glob, steps, &mut touched);
        // The walk puts the end of the path before the modules that led to it.
        touched.into_iter().next()
    }

    fn defines(&self, module: &Module, name: &str, steps: usize) -> bool {
        let Some(steps) = steps.checked_sub(1) else { return false };
        self.defines_unseen(module, name, steps, &mut BTreeSet::new())
    }

    /// Looks into each module once: rooms that import all of each other would otherwise be walked through in every order.
    fn defines_unseen(&self, module: &Module, name: &str, steps: usize, seen: &mut BTreeSet<Module>) -> bool {
        let Some(scope) = self.scopes.get(module).filter(|_| seen.insert(module.clone())) else {
            return false;
        };
        scope.items.contains(name)
            || scope.imports.contains_key(name)
            || self.scopes.contains_key(&joined(module, &[name.to_owned()]))
            || scope.globs.iter().any(|glob| {
                let target = self.glob_target(module, glob, steps);
                target.is_some_and(|target| self.defines_unseen(&target, name, steps, seen))
            })
    }
}

fn joined(names: &[String], more: &[String]) -> Vec<String> {
    [names, more].concat()
}

/// `storage/fjall.rs` and `storage/fjall/mod.rs` are `storage::fjall`; `lib.rs` is the root.
fn module_of(path: &str) -> Module {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Module::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Goes through the tokens of one file.
struct Reader<'a> {
    path: &'a str,
    tokens: &'a [Token],
    module: Module,
    sources: &'a mut Sources,
}

impl Reader<'_> {
    fn word(&self, at: usize) -> Option<&str> {
        match &self.tokens.get(at)?.what {
            What::Word(word) => Some(word),
            _ => None,
        }
    }

    fn is(&self, at: usize, sign: char) -> bool {
        self.tokens.get(at).is_some_and(|token| token.what == What::Sign(sign))
    }

    fn is_path_separator(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.what == What::PathSeparator)
    }

    fn scope(&mut self) -> &mut Scope {
        self.sources.scopes.entry(self.module.clone()).or_default()
    }

    fn read(&mut self) {
        self.scope();
        let mut depth = 0_usize;
        // The depth inside each `mod name { … }` that is open; items of the module stand there.
        let mut inline = vec![0];
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            match &token.what {
                What::Sign('#') if self.is(at + 1, '[') || (self.is(at + 1, '!') && self.is(at + 2, '[')) => {
                    let is_inner = self.is(at + 1, '!');
                    let open = if is_inner { at + 2 } else { at + 1 };
                    let close = self.closing(open);
                    let is_test = self.is_test_attribute(open + 1, close);
                    if is_test && is_inner && depth == 0 {
                        self.sources.test_modules.insert(self.module.clone());
                        return;
                    }
                    at = if is_test && !is_inner { self.skip_test_item(close + 1) } else { close + 1 };
                    continue;
                }
                What::Sign('{') => depth += 1,
                What::Sign('}') => {
                    if inline.len() > 1 && inline.last() == Some(&depth) {
                        inline.pop();
                        self.module.pop();
                    }
                    depth = depth.saturating_sub(1);
                }
                What::Word(word) => {
                    let is_item = inline.last() == Some(&depth);
                    if word == "mod"
                        && self.is(at + 2, '{')
                        && let Some(name) = self.word(at + 1).map(str::to_owned)
                    {
                        self.module.push(name);
                        self.scope();
                        depth += 1;
                        inline.push(depth);
                        at += 3;
                        continue;
                    }
                    if word == "use" && !self.is(at + 1, '<') {
                        at = self.read_use(at);
                        continue;
                    }
                    if is_item
                        && ITEMS.contains(&word.as_str())
                        && let Some(name) = self.word(at + 1).map(str::to_owned)
                    {
                        self.scope().items.insert(name);
                    }
                    at = self.read_path(at);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads `a::b::c` from its first name; returns the place behind it.
    fn read_path(&mut self, start: usize) -> usize {
        let mut names = Vec::new();
        let mut at = start;
        while let Some(word) = self.word(at) {
            names.push(word.to_owned());
            at += 1;
            if !self.is_path_separator(at) || self.word(at + 1).is_none() {
                break;
            }
            at += 1;
        }
        // `impl … a::Contract for`: nothing else has a `for` behind a trait's name.
        if self.word(at) == Some("for")
            && let Some(contract) =
                names.last().filter(|name| CONTRACTS.iter().any(|(_, contract)| contract == name))
        {
            let (path, module, contract) = (self.path.to_owned(), self.module.clone(), contract.clone());
            self.sources.implements.push(Implements {
                path,
                line: self.tokens[start].line,
                module,
                contract,
            });
        }
        // What follows `::` or `.` belongs to something before it (a type in brackets, a value).
        let continues = start > 0 && (self.is_path_separator(start - 1) || self.is(start - 1, '.'));
        if names.len() > 1 && !continues {
            self.refer(start, names, false);
        }
        at
    }

    fn refer(&mut self, at: usize, names: Vec<String>, is_re_export: bool) {
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        let (path, module) = (self.path.to_owned(), self.module.clone());
        self.sources.references.push(Reference { path, line, module, names, is_re_export });
    }

    /// Reads a `use` up to its semicolon; returns the place behind it.
    fn read_use(&mut self, start: usize) -> usize {
        let is_re_export = start > 0 && (self.word(start - 1) == Some("pub") || self.is(start - 1, ')'));
        self.read_use_tree(start + 1, &[], is_re_export)
    }

    /// Reads one branch of a `use`, which goes on from `prefix`; returns the place behind it.
    fn read_use_tree(&mut self, start: usize, prefix: &[String], is_re_export: bool) -> usize {
        let mut names = prefix.to_vec();
        let mut at = start;
        loop {
            if self.is(at, '{') {
                at += 1;
                while at < self.tokens.len() && !self.is(at, '}') {
                    at = self.read_use_tree(at, &names, is_re_export);
                    if self.is(at, ',') {
                        at += 1;
                    } else if !self.is(at, '}') {
                        // Part of a macro, such as `use $path`: nothing that can be followed.
                        at += 1;
                    }
                }
                return at + 1;
            }
            if self.is(at, '*') {
                self.refer(start, names.clone(), is_re_export);
                self.scope().globs.push(names);
                return at + 1;
            }
            let Some(word) = self.word(at).map(str::to_owned) else { return at };
            // `a::b::{self}` is `a::b`.
            if word != "self" || names.is_empty() {
                names.push(word);
            }
            at += 1;
            if self.is_path_separator(at) {
                at += 1;
                continue;
            }
            let mut name = names.last().cloned();
            if self.word(at) == Some("as") {
                name = self.word(at + 1).map(str::to_owned);
                at += 2;
            }
            self.refer(start, names.clone(), is_re_export);
            if let Some(name) = name.filter(|name| name != "_") {
                self.scope().imports.insert(name, names);
            }
            return at;
        }
    }

    /// Whether the attribute between these places is `cfg(test)` or `cfg(all(test, …))`.
    fn is_test_attribute(&self, start: usize, end: usize) -> bool {
        if self.word(start) != Some("cfg") {
            return false;
        }
        if self.word(start + 2) != Some("all") {
            return self.word(start + 2) == Some("test");
        }
        let mut depth = 0_usize;
        (start + 1..end).any(|at| {
            if self.is(at, '(') {
                depth += 1;
            } else if self.is(at, ')') {
                depth -= 1;
            }
            depth == 2 && self.word(at) == Some("test")
        })
    }

    /// Skips what an attribute stands before; returns the place behind it.
    fn skip_test_item(&mut self, start: usize) -> usize {
        let mut at = start;
        while self.is(at, '#') && self.is(at + 1, '[') {
            at = self.closing(at + 1) + 1;
        }
        let mut head = at;
        if self.word(head) == Some("pub") {
            head += 1;
            if self.is(head, '(') {
                head = self.closing(head) + 1;
            }
        }
        let is_item =
            self.word(head).is_some_and(|word| ITEMS.contains(&word) || BEFORE_ITEMS.contains(&word));
        if self.word(head) == Some("mod")
            && let Some(name) = self.word(head + 1)
        {
            let module = joined(&self.module, &[name.to_owned()]);
            self.sources.test_modules.insert(module);
        }
        while let Some(token) = self.tokens.get(at) {
            match token.what {
                What::Sign('(' | '[') => at = self.closing(at),
                What::Sign('{') => return self.closing(at) + 1,
                // A field, a variant or an argument ends with a comma, or with what it stands in.
                What::Sign(',') if !is_item => return at + 1,
                What::Sign(')' | ']' | '}') => return at,
                What::Sign(';') => return at + 1,
                _ => {}
            }
            at += 1;
        }
        at
    }

    /// The place of the bracket that closes the one here.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            match self.tokens[at].what {
                What::Sign('(' | '[' | '{') => depth += 1,
                What::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len()
    }
}

/// Words before the name of an item.
const ITEMS: &[&str] = &["struct", "enum", "union", "trait", "fn", "type", "const", "static", "mod"];
/// Other words that an item may begin with.
const BEFORE_ITEMS: &[&str] = &["use", "impl", "async", "unsafe", "extern", "macro_rules", "let"];

#[derive(Debug)]
struct Token {
    what: What,
    line: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Word(String),
    PathSeparator,
    Sign(char),
    /// A string, character or number, where no path can be.
    Literal,
}

/// Splits a source into words and signs, without comments and without what stands in literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let is_word = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let what = if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
            None
        } else if starts(at, "/*") {
            let mut depth = 0_usize;
            while at < chars.len() {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    at += 1;
                }
            }
            None
        } else if let Some(end) = raw_string_end(&chars, at).or_else(|| string_end(&chars, at)) {
            at = end;
            Some(What::Literal)
        } else if chars[at] == '\'' {
            at = quote_end(&chars, at);
            Some(What::Literal)
        } else if starts(at, "::") {
            at += 2;
            Some(What::PathSeparator)
        } else if is_word(at) {
            // `r#type` is the word `type`.
            let skip = if starts(at, "r#") && is_word(at + 2) { 2 } else { 0 };
            at += skip;
            while is_word(at) {
                at += 1;
            }
            let word: String = chars[start + skip..at].iter().collect();
            Some(if chars[start].is_ascii_digit() { What::Literal } else { What::Word(word) })
        } else {
            at += 1;
            (!chars[start].is_whitespace()).then(|| What::Sign(chars[start]))
        };
        tokens.extend(what.map(|what| Token { what, line }));
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The end of `"…"`, `b"…"` or `c"…"` that begins here.
fn string_end(chars: &[char], start: usize) -> Option<usize> {
    let quote = if matches!(chars[start], 'b' | 'c') { start + 1 } else { start };
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    Some((at + 1).min(chars.len()))
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"` that begins here.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = if matches!(chars[start], 'b' | 'c') { start + 1 } else { start };
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        let ends =
            chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        at += 1;
        if ends {
            return Some(at + hashes);
        }
    }
    Some(at)
}

/// The end of a character (`'a'`, `'\n'`, `'\u{1f}'`) or of a lifetime (`'a`).
fn quote_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    if chars.get(at) == Some(&'\\') {
        at += 2;
        while at < chars.len() && chars[at] != '\'' {
            at += 1;
        }
        return (at + 1).min(chars.len());
    }
    if chars.get(at + 1) == Some(&'\'') {
        return at + 2;
    }
    while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
        at += 1;
    }
    at
}
