//! What browsers are told about pages from other origins, as the reference tells it (Go's `rs/cors`).

use std::time::Duration;

use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};

use super::answer::canonical;
use super::find::NEXT_CURSOR;
use crate::error::{Error, Result};

/// On answers to preflights.
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
const SIMPLE_VARY: HeaderValue = HeaderValue::from_static("Origin");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// Headers that pages may send when none are listed.
const DEFAULT_HEADERS: &[&str] = &["accept", "content-type", "x-requested-with"];
/// Methods that pages may use when none are listed.
const DEFAULT_METHODS: &[&str] = &["GET", "POST", "HEAD"];
/// Empty elements that a list of requested headers may have.
const EMPTY_ELEMENTS_MAX: usize = 16;

/// From which origins pages may call, and how. `Default` is what the reference's `init` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsConfig {
    /// Origins: `https://example.com`, with one `*` in it, or `*` for all. None listed is all, as in the reference,
    /// unless [`closed`](Self::closed).
    pub allowed_origins: Vec<String>,
    /// Methods; none listed is GET, POST and HEAD.
    pub allowed_methods: Vec<String>,
    /// Request headers, `*` for all; none listed is Accept, Content-Type and X-Requested-With.
    pub allowed_headers: Vec<String>,
    /// Answer headers that pages may read.
    pub exposed_headers: Vec<String>,
    /// Whether pages may send what the browser keeps for us.
    pub allow_credentials: bool,
    /// How long browsers may remember the answer to a preflight, in whole seconds; zero does not say.
    pub max_age: Duration,
    /// No origin is allowed unless it is listed.
    pub closed: bool,
}

impl Default for CorsConfig {
    fn default() -> Self {
        let texts = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Self {
            allowed_origins: texts(&["*"]),
            allowed_methods: texts(&["GET"]),
            allowed_headers: Vec::new(),
            exposed_headers: texts(&[
                "Content-Type",
                "X-Stream-Output",
                "X-Chunked-Output",
                "X-Content-Length",
            ]),
            allow_credentials: true,
            max_age: Duration::ZERO,
            closed: false,
        }
    }
}

impl CorsConfig {
    /// No page of another origin may call.
    #[must_use]
    pub fn closed() -> Self {
        Self { allowed_origins: Vec::new(), allow_credentials: false, closed: true, ..Self::default() }
    }

    /// Whether pages of every origin may call.
    pub fn is_open_to_all(&self) -> bool {
        self.allowed_origins.iter().any(|origin| origin == "*")
            || (self.allowed_origins.is_empty() && !self.closed)
    }
}

#[derive(Debug)]
enum Origins {
    All,
    Listed {
        plain: Vec<String>,
        /// Beginning and end.
        wild: Vec<(String, String)>,
    },
}

/// The same, ready to be asked.
#[derive(Debug)]
pub(super) struct Cors {
    origins: Origins,
    methods: Vec<String>,
    /// Sorted, in lower case; none allows all.
    headers: Option<Vec<String>>,
    exposed: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

impl Cors {
    /// No page of another origin may call.
    pub(super) fn closed() -> Self {
        Self {
            origins: Origins::Listed { plain: Vec::new(), wild: Vec::new() },
            methods: Vec::new(),
            headers: None,
            exposed: None,
            credentials: false,
            max_age: None,
        }
    }

    /// # Errors
    /// `InvalidInput` for exposed headers that are none.
    pub(super) fn new(config: &CorsConfig) -> Result<Self> {
        let origins = if config.is_open_to_all() {
            Origins::All
        } else {
            let (mut plain, mut wild) = (Vec::new(), Vec::new());
            for origin in &config.allowed_origins {
                let origin = origin.to_lowercase();
                match origin.split_once('*') {
                    Some((start, end)) => wild.push((start.to_owned(), end.to_owned())),
                    None => plain.push(origin),
                }
            }
            Origins::Listed { plain, wild }
        };
        let texts = |listed: &[String], default: &[&str]| -> Vec<String> {
            if listed.is_empty() {
                default.iter().map(|&text| text.to_owned()).collect()
            } else {
                listed.to_vec()
            }
        };
        let headers = (!config.allowed_headers.iter().any(|name| name == "*")).then(|| {
            let mut names = texts(&config.allowed_headers, DEFAULT_HEADERS);
            names.iter_mut().for_each(|name| *name = name.to_lowercase());
            names.sort_unstable();
            names.dedup();
            names
        });
        let exposed = config
            .exposed_headers
            .iter()
            .map(|name| {
                name.parse::<HeaderName>().map(|name| canonical(name.as_str())).map_err(|_| {
                    Error::invalid_input(format!(
                        "restapi.cors_exposed_headers: {name:?} is no name of a header"
                    ))
                    .component("restapi")
                })
            })
            .collect::<Result<Vec<_>>>()?
            .join(", ");
        Ok(Self {
            origins,
            methods: texts(&config.allowed_methods, DEFAULT_METHODS),
            headers,
            exposed: HeaderValue::from_str(&exposed).ok().filter(|value| !value.is_empty()),
            credentials: config.allow_credentials,
            max_age: Some(config.max_age.as_secs()).filter(|seconds| *seconds > 0).map(HeaderValue::from),
        })
    }

    /// The headers of the answer to a preflight; none for a request that is no preflight.
    pub(super) fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
        let wanted = request.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|wanted| !wanted.is_empty())?;
        if *method != Method::OPTIONS {
            return None;
        }
        let mut answer = HeaderMap::with_capacity(6);
        answer.insert(VARY, PREFLIGHT_VARY);
        let names = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS);
        let Some(origin) = self.allowed_origin(request) else { return Some(answer) };
        if !wanted.to_str().is_ok_and(|wanted| self.allows_method(wanted))
            || !self.allows_headers(names.iter())
        {
            return Some(answer);
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, wanted.clone());
        if names.iter().next().is_some_and(|first| !first.is_empty()) {
            for name in names {
                answer.append(ACCESS_CONTROL_ALLOW_HEADERS, name.clone());
            }
        }
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(seconds) = &self.max_age {
            answer.insert(ACCESS_CONTROL_MAX_AGE, seconds.clone());
        }
        Some(answer)
    }

    /// The headers that the answer to any other request has.
    pub(super) fn simple(&self, method: &Method, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::with_capacity(4);
        answer.insert(VARY, SIMPLE_VARY);
        if let Some(origin) = self.allowed_origin(request)
            && self.allows_method(method.as_str())
        {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if let Some(names) = &self.exposed {
                answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
            }
            if self.credentials {
                answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            }
        }
        answer
    }

    /// What an allowed origin is told.
    fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(ORIGIN).filter(|origin| !origin.is_empty())?;
        match &self.origins {
            Origins::All => Some(ANY),
            Origins::Listed { plain, wild } => {
                let text = origin.to_str().ok()?.to_lowercase();
                let allowed = plain.contains(&text)
                    || wild.iter().any(|(start, end)| {
                        text.len() >= start.len() + end.len()
                            && text.starts_with(start)
                            && text.ends_with(end)
                    });
                allowed.then(|| origin.clone())
            }
        }
    }

    fn allows_method(&self, method: &str) -> bool {
        method == "OPTIONS" || self.methods.iter().any(|allowed| allowed == method)
    }

    /// Browsers ask for names in lower case, sorted, each once, and so they are compared.
    fn allows_headers<'a>(&self, lists: impl Iterator<Item = &'a HeaderValue>) -> bool {
        let Some(allowed) = &self.headers else { return true };
        let mut rest = allowed.as_slice();
        let mut empty = 0;
        for list in lists {
            for name in list.as_bytes().split(|byte| *byte == b',') {
                let name = without_space(name);
                if name.is_empty() {
                    empty += 1;
                    if empty > EMPTY_ELEMENTS_MAX {
                        return false;
                    }
                    continue;
                }
                let Some(place) = rest.iter().position(|allowed| allowed.as_bytes() == name) else {
                    return false;
                };
                rest = &rest[place + 1..];
            }
        }
        true
    }
}

/// Lets pages that may read an answer read also where the next page of a listing begins, whatever is listed: only answers
/// of ours say so, which a list of the reference knows nothing of. `cors` is what is about to be added to the answer.
pub(super) fn expose_cursor(answer: &HeaderMap, cors: &mut HeaderMap) {
    if !answer.contains_key(NEXT_CURSOR) || !cors.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let cursor = canonical(NEXT_CURSOR.as_str());
    let listed = cors.get(ACCESS_CONTROL_EXPOSE_HEADERS).and_then(|names| names.to_str().ok());
    let is_listed = |names: &str| names.split(", ").any(|name| name == cursor);
    let names = match listed {
        Some(names) if is_listed(names) => return,
        Some(names) => format!("{names}, {cursor}"),
        None => cursor,
    };
    if let Ok(names) = HeaderValue::from_str(&names) {
        cors.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
}

/// Without one space or tab on each side.
fn without_space(text: &[u8]) -> &[u8] {
    let text = match text {
        [b' ' | b'\t', rest @ ..] => rest,
        all => all,
    };
    match text {
        [rest @ .., b' ' | b'\t'] => rest,
        all => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn a_page_of_another_origin_may_read_where_the_next_page_begins() {
        let page = HeaderMap::from_iter([(NEXT_CURSOR, HeaderValue::from_static("abc"))]);
        let origin = HeaderMap::from_iter([(hyper::header::ORIGIN, HeaderValue::from_static("http://a"))]);
        let exposed = |exposed: &[&str], answer: &HeaderMap, request: &HeaderMap| {
            let config = CorsConfig { exposed_headers: texts(exposed), ..CorsConfig::default() };
            let mut cors = Cors::new(&config).unwrap().simple(&Method::GET, request);
            expose_cursor(answer, &mut cors);
            cors.get(ACCESS_CONTROL_EXPOSE_HEADERS).map(|names| names.to_str().unwrap().to_owned())
        };
        let names = |text: &str| Some(text.to_owned());
        assert_eq!(exposed(&["content-type"], &page, &origin), names("Content-Type, X-Next-Cursor"));
        assert_eq!(exposed(&["x-next-cursor"], &page, &origin), names("X-Next-Cursor"));
        assert_eq!(exposed(&[], &page, &origin), names("X-Next-Cursor"));
        assert_eq!(exposed(&["content-type"], &HeaderMap::new(), &origin), names("Content-Type"));
        assert_eq!(exposed(&["content-type"], &page, &HeaderMap::new()), None);
    }

    /// The headers of an answer, sorted; the request as `name: value` lines.
    fn answer(config: &CorsConfig, method: &str, request: &[(&str, &str)]) -> Vec<String> {
        let cors = Cors::new(config).unwrap();
        let method: Method = method.parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in request {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let answer = cors.preflight(&method, &headers).unwrap_or_else(|| cors.simple(&method, &headers));
        let mut lines: Vec<_> = answer
            .iter()
            .map(|(name, value)| {
                format!("{}: {}", name.as_str().replace("access-control-", ""), value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        lines
    }

    const EXPOSED: &str = "expose-headers: Content-Type, X-Stream-Output, X-Chunked-Output, X-Content-Length";
    const CLOSED: &str = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    const SIMPLE: &str = "vary: Origin";
    const ORIGIN: (&str, &str) = ("origin", "http://example.com");
    const WANTS_GET: (&str, &str) = ("access-control-request-method", "GET");

    #[test]
    fn simple_requests_are_answered_as_by_the_reference() {
        let default = CorsConfig::default();
        assert_eq!(answer(&default, "GET", &[]), [SIMPLE]);
        assert_eq!(answer(&default, "GET", &[("origin", "")]), [SIMPLE]);
        assert_eq!(
            answer(&default, "GET", &[ORIGIN]),
            ["allow-credentials: true", "allow-origin: *", EXPOSED, SIMPLE]
        );
        assert_eq!(answer(&default, "POST", &[ORIGIN]), [SIMPLE]);
        let listed = CorsConfig {
            allowed_origins: texts(&["HTTP://Example.com", "http://*.test", "https://a*"]),
            exposed_headers: Vec::new(),
            allow_credentials: false,
            ..CorsConfig::default()
        };
        for (origin, allowed) in [
            ("http://example.com", true),
            ("http://EXAMPLE.com", true),
            ("http://a.test", true),
            ("http://.test", true),
            ("http://test", false),
            ("https://a", true),
            ("http://example.com.evil", false),
            ("null", false),
        ] {
            let allow = format!("allow-origin: {origin}");
            let expected = if allowed { vec![allow.as_str(), SIMPLE] } else { vec![SIMPLE] };
            assert_eq!(answer(&listed, "GET", &[("origin", origin)]), expected, "{origin}");
        }
    }

    #[test]
    fn keys_that_are_missing_allow_what_the_reference_allows_and_nothing_when_closed() {
        let missing = CorsConfig {
            allowed_origins: Vec::new(),
            allowed_methods: Vec::new(),
            exposed_headers: Vec::new(),
            allow_credentials: false,
            ..CorsConfig::default()
        };
        for (method, allowed) in [("GET", true), ("POST", true), ("HEAD", true), ("DELETE", false)] {
            assert_eq!(answer(&missing, method, &[ORIGIN]).len(), if allowed { 2 } else { 1 }, "{method}");
        }
        assert!(missing.is_open_to_all() && !CorsConfig::closed().is_open_to_all());
        assert_eq!(answer(&CorsConfig::closed(), "GET", &[ORIGIN]), [SIMPLE]);
        assert_eq!(answer(&CorsConfig::closed(), "OPTIONS", &[ORIGIN, WANTS_GET]), [CLOSED]);
        let listed = CorsConfig { allowed_origins: texts(&["http://example.com"]), ..CorsConfig::closed() };
        assert_eq!(answer(&listed, "GET", &[ORIGIN]), ["allow-origin: http://example.com", EXPOSED, SIMPLE]);
    }

    #[test]
    fn preflights_are_answered_as_by_the_reference() {
        let default = CorsConfig::default();
        assert_eq!(
            answer(&default, "OPTIONS", &[ORIGIN, WANTS_GET]),
            ["allow-credentials: true", "allow-methods: GET", "allow-origin: *", CLOSED]
        );
        let wants_post = ("access-control-request-method", "POST");
        assert_eq!(answer(&default, "OPTIONS", &[ORIGIN, wants_post]), [CLOSED]);
        assert_eq!(answer(&default, "OPTIONS", &[WANTS_GET]), [CLOSED]);
        // Without the header of a preflight it is none.
        let simple = ["allow-credentials: true", "allow-origin: *", EXPOSED, SIMPLE];
        assert_eq!(answer(&default, "OPTIONS", &[ORIGIN]), simple);
        assert_eq!(answer(&default, "OPTIONS", &[ORIGIN, (WANTS_GET.0, "")]), simple);
        assert_eq!(answer(&default, "GET", &[ORIGIN, WANTS_GET]), simple);
        let max_age = CorsConfig { max_age: Duration::from_millis(600_900), ..default };
        assert!(answer(&max_age, "OPTIONS", &[ORIGIN, WANTS_GET]).contains(&"max-age: 600".to_owned()));
    }

    #[test]
    fn requested_headers_are_allowed_in_order_and_once() {
        let name = "access-control-request-headers";
        for (wanted, allowed) in [
            (vec!["content-type"], true),
            (vec!["accept,content-type"], true),
            (vec!["accept, content-type , x-requested-with"], true),
            (vec!["accept", "content-type"], true),
            (vec![""], true),
            (vec![",,accept,,"], true),
            (vec!["content-type,accept"], false),
            (vec!["accept,accept"], false),
            (vec!["Accept"], false),
            (vec!["accept,  content-type"], false),
            (vec!["authorization"], false),
            (vec![",,,,,,,,,,,,,,,,,,"], false),
        ] {
            let mut request = vec![ORIGIN, WANTS_GET];
            request.extend(wanted.iter().map(|wanted| (name, *wanted)));
            let answer = answer(&CorsConfig::default(), "OPTIONS", &request);
            assert_eq!(answer.len() > 1, allowed, "{wanted:?}: {answer:?}");
            for wanted in wanted.iter().filter(|wanted| allowed && !wanted.is_empty()) {
                assert!(answer.contains(&format!("allow-headers: {wanted}")), "{answer:?}");
            }
        }
        let all = CorsConfig { allowed_headers: texts(&["X", "*"]), ..CorsConfig::default() };
        assert!(answer(&all, "OPTIONS", &[ORIGIN, WANTS_GET, (name, "Zzz, a,a")]).len() > 1);
        let bad = CorsConfig { exposed_headers: texts(&["a b"]), ..CorsConfig::default() };
        assert!(Cors::new(&bad).unwrap_err().message().contains("cors_exposed_headers"));
    }
}
