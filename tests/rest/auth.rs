//! Who may call, what browsers are told, and what is logged, over real sockets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::api::rest::{
    AccessLog, Authentication, CorsConfig, RestApi, RestApiSection, RestConfig, Security, TOKEN_FILE,
    hash_password, router_with,
};
use proptest::prelude::*;

use super::caller::{Caller, Received};
use super::{Peer, soon};

/// `hunter2`, hashed for little money.
const CHEAP: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0NTY3OA$";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

fn users(users: &[(&str, &str)]) -> Authentication {
    Authentication::new(users.iter().map(|(user, password)| (user.to_string(), password.to_string())))
}

fn plain() -> RestConfig {
    RestConfig {
        authentication: Some(users(&[("ann", "secret"), ("bob", "hidden")])),
        ..RestConfig::default()
    }
}

async fn strict() -> RestConfig {
    let hash = tokio::task::spawn_blocking(|| hash_password("secret").unwrap()).await.unwrap();
    RestConfig {
        security: Security::Strict,
        authentication: Some(users(&[("ann", &hash)])),
        cors: CorsConfig::closed(),
        ..RestConfig::default()
    }
}

async fn peer(config: RestConfig) -> Peer {
    Peer::with(config, |builder| builder).await
}

async fn call(caller: &mut Caller, method: &str, path: &str, authorization: &str) -> Received {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n");
    caller.send(head).await;
    soon(caller.answer()).await
}

async fn token(caller: &mut Caller, authorization: &str) -> String {
    let received = call(caller, "POST", "/token", authorization).await;
    assert_eq!(received.status, 200, "{}", received.text());
    format!("Bearer {}", received.json()["token"].as_str().unwrap())
}

#[tokio::test]
async fn hashed_passwords_let_in_and_their_tokens_expire_and_can_be_revoked() {
    let peer = peer(strict().await).await;
    let mut caller = peer.caller().await;
    let (ann, wrong) = (basic("ann", "secret"), basic("ann", "secreT"));
    for (authorization, status) in [
        (&ann, 200),
        (&ann, 200),
        (&wrong, 401),
        (&basic("bob", "secret"), 401),
        (&basic("ann", ""), 401),
        (&basic("", "secret"), 401),
    ] {
        assert_eq!(call(&mut caller, "GET", "/version", authorization).await.status, status);
    }
    let (one, two) = (token(&mut caller, &ann).await, token(&mut caller, &ann).await);
    assert_ne!(one, two);
    let from_token = token(&mut caller, &one).await;
    for token in [&one, &two, &from_token] {
        assert_eq!(call(&mut caller, "GET", "/version", token).await.status, 200);
    }
    let received = call(&mut caller, "DELETE", "/token", &one).await;
    assert_eq!((received.status, received.header("content-type")), (204, Some("application/json")));
    for (token, status) in [(&one, 401), (&two, 200), (&from_token, 200)] {
        assert_eq!(call(&mut caller, "GET", "/version", token).await.status, status);
    }
    assert_eq!(call(&mut caller, "DELETE", "/token", &one).await.status, 401);
    assert_eq!(call(&mut caller, "DELETE", "/token", &ann).await.status, 400);
    assert_eq!(call(&mut caller, "DELETE", "/token?all=yes", &ann).await.status, 400);
    assert_eq!(call(&mut caller, "DELETE", "/token?all=true", &ann).await.status, 204);
    for token in [&two, &from_token] {
        assert_eq!(call(&mut caller, "GET", "/version", token).await.status, 401);
    }
    let again = token(&mut caller, &ann).await;
    assert_eq!(call(&mut caller, "GET", "/version", &again).await.status, 200);
}

#[tokio::test]
async fn tokens_of_the_file_survive_a_restart_and_a_new_password_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = strict().await.in_folder(folder.path());
    let first = peer(config.clone()).await;
    let mut caller = first.caller().await;
    let ann = basic("ann", "secret");
    let (kept, revoked) = (token(&mut caller, &ann).await, token(&mut caller, &ann).await);
    assert_eq!(call(&mut caller, "DELETE", "/token", &revoked).await.status, 204);
    first.api.shutdown().await;
    assert!(folder.path().join(TOKEN_FILE).exists());

    let second = peer(config).await;
    let mut caller = second.caller().await;
    assert_eq!(call(&mut caller, "GET", "/version", &kept).await.status, 200);
    assert_eq!(call(&mut caller, "GET", "/version", &revoked).await.status, 401);
    second.api.shutdown().await;

    let third = peer(strict().await.in_folder(folder.path())).await;
    let mut caller = third.caller().await;
    assert_eq!(call(&mut caller, "GET", "/version", &kept).await.status, 401);
    third.api.shutdown().await;

    std::fs::write(folder.path().join(TOKEN_FILE), "{}").unwrap();
    let config = strict().await.in_folder(folder.path()).listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
    let error = RestApi::bind(config, third.cluster.clone()).await.unwrap_err();
    assert!(error.message().contains(TOKEN_FILE), "{error}");
}

#[tokio::test]
async fn tokens_of_plain_passwords_are_those_of_the_reference_and_cannot_be_revoked() {
    let peer = peer(plain()).await;
    let mut caller = peer.caller().await;
    let token = token(&mut caller, &basic("ann", "secret")).await;
    assert_eq!(token, self::token(&mut caller, &token).await);
    assert_eq!(call(&mut caller, "DELETE", "/token", &token).await.status, 501);
    assert_eq!(call(&mut caller, "GET", "/id", &token).await.status, 200);
    // Somebody else's password does not sign for her.
    let bobs = self::token(&mut caller, &basic("bob", "hidden")).await;
    let mixed = format!("{}.{}", &token[..token.rfind('.').unwrap()], &bobs[bobs.rfind('.').unwrap() + 1..]);
    assert_eq!(call(&mut caller, "GET", "/id", &mixed).await.status, 401);

    let open = self::peer(RestConfig::default()).await;
    let mut caller = open.caller().await;
    for method in ["POST", "DELETE"] {
        let received = soon(caller.call(method, "/token")).await;
        assert_eq!((received.status, received.json()["message"].as_str()), (401, Some("unauthorized")));
    }
}

#[tokio::test]
async fn a_plain_and_a_hashed_password_work_side_by_side() {
    let hash = strict().await.authentication.unwrap().users.0["ann"].clone();
    let authentication = Some(users(&[("ann", &hash), ("bob", "hidden")]));
    let peer = peer(RestConfig { authentication, ..RestConfig::default() }).await;
    let mut caller = peer.caller().await;
    for (user, password, status) in [
        ("ann", "secret", 200),
        ("bob", "hidden", 200),
        ("ann", "hidden", 401),
        ("bob", "secret", 401),
        ("ann", hash.as_str(), 401),
    ] {
        let received = call(&mut caller, "GET", "/version", &basic(user, password)).await;
        assert_eq!(received.status, status, "{user}");
    }
    assert_eq!(token(&mut caller, &basic("bob", "hidden")).await.matches('.').count(), 2);
    let expiring = token(&mut caller, &basic("ann", "secret")).await;
    assert_ne!(expiring, token(&mut caller, &basic("ann", "secret")).await);
    assert_eq!(call(&mut caller, "DELETE", "/token", &expiring).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_log_in_at_once_with_one_password_wait_for_one_check() {
    let peer = peer(strict().await).await;
    let address = peer.address();
    let calls = (0..200).map(|_| async move {
        let mut caller = Caller::connect(address).await;
        call(&mut caller, "GET", "/version", &basic("ann", "secret")).await.status
    });
    let statuses = futures::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_is_turned_away_and_those_who_are_in_stay_in() {
    let peer = peer(strict().await).await;
    let address = peer.address();
    let mut ann = peer.caller().await;
    assert_eq!(call(&mut ann, "GET", "/version", &basic("ann", "secret")).await.status, 200);
    let flood = (0..300).map(|number| async move {
        let mut caller = Caller::connect(address).await;
        let received = call(&mut caller, "GET", "/version", &basic("ann", &number.to_string())).await;
        (received.status, received.header("retry-after").map(str::to_owned))
    });
    let flood = tokio::spawn(futures::future::join_all(flood));
    while !flood.is_finished() {
        assert_eq!(call(&mut ann, "GET", "/version", &basic("ann", "secret")).await.status, 200);
    }
    let answers = flood.await.unwrap();
    assert!(answers.iter().all(|(status, _)| matches!(status, 401 | 503)), "{answers:?}");
    let busy = answers.iter().filter(|answer| **answer == (503, Some("1".to_owned()))).count();
    assert_eq!(busy, answers.iter().filter(|(status, _)| *status == 503).count());
    assert!(busy > 0, "all of them were checked");
}

/// What a refused request is told.
fn assert_is_refusal(received: &Received) {
    assert!(matches!(received.status, 400 | 401), "{received:?}");
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.json()["code"], received.status);
    for name in ["vary", "access-control-allow-origin"] {
        assert_eq!(received.header(name), None);
    }
}

#[tokio::test]
async fn headers_that_say_nothing_or_too_much_are_refused_and_the_connection_lives() {
    let peer = peer(plain()).await;
    let mut caller = peer.caller().await;
    let good = basic("ann", "secret");
    let token = token(&mut caller, &good).await;
    let long = format!("Bearer {}", "a".repeat(6_000));
    let long_password = basic("ann", &"x".repeat(5_000));
    let no_colon = format!("Basic {}", BASE64.encode("ann"));
    for (authorization, status, message) in [
        ("", 401, "unauthorized: no auth provided"),
        ("Basic", 401, "unauthorized: no auth provided"),
        ("Basic !", 401, "unauthorized: no auth provided"),
        (no_colon.as_str(), 401, "unauthorized: no auth provided"),
        ("Digest username=ann", 401, "unauthorized: no auth provided"),
        ("Bearer", 401, "unauthorized: no auth provided"),
        (&good.replace("Basic ", "Basic  "), 401, "unauthorized: no auth provided"),
        (&token.replace("Bearer ", "Bearer  "), 401, "unauthorized: invalid token"),
        (&format!("{token}."), 401, "unauthorized: invalid token"),
        (&token[..token.len() - 1], 401, "unauthorized: invalid token"),
        (&long, 401, "unauthorized: invalid token"),
        (&long_password, 401, "unauthorized: access denied"),
        (
            &format!("{good}\r\nAuthorization: {token}"),
            400,
            "the header Authorization is there more than once",
        ),
    ] {
        let received = call(&mut caller, "POST", "/pins/x", authorization).await;
        assert_is_refusal(&received);
        assert_eq!(received.status, status);
        assert_eq!(received.json()["message"], message, "{authorization}");
    }
    let mut bytes = b"GET /id HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xff\xfe\r\n\r\n".to_vec();
    caller.send(&bytes).await;
    assert_is_refusal(&soon(caller.answer()).await);
    bytes = b"GET /id HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n".to_vec();
    caller.send(&bytes).await;
    assert_is_refusal(&soon(caller.answer()).await);
    for authorization in [good.replace("Basic", "bAsIc"), token.replace("Bearer", "BEARER")] {
        assert_eq!(call(&mut caller, "GET", "/id", &authorization).await.status, 200);
    }
    for (method, path) in [("GET", "/health"), ("OPTIONS", "/id"), ("OPTIONS", "/nope")] {
        assert_ne!(soon(caller.call(method, path)).await.status, 401, "{method} {path}");
    }
    for (method, path) in
        [("POST", "/health"), ("GET", "/health/"), ("GET", "/health/graph"), ("HEAD", "/health")]
    {
        assert_eq!(soon(caller.call(method, path)).await.status, 401, "{method} {path}");
    }
}

#[test]
fn any_authorization_is_refused_without_harm() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hash = CHEAP.to_owned() + "Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFy";
    let authentication = Some(users(&[("ann", "secret"), ("bob", &hash)]));
    let config = RestConfig { authentication, ..RestConfig::default() };
    let (_peer, caller) = runtime.block_on(async {
        let peer = peer(config).await;
        let caller = peer.caller().await;
        (peer, caller)
    });
    let caller = std::cell::RefCell::new(caller);
    let visible = "[ -~\u{80}-\u{2ff}]{0,200}";
    let json = r#"\{"(alg|iss|exp|gen|jti)":("HS256"|"none"|"ann"|"bob"|[0-9]{1,20}|null|\[\])(,"(alg|iss|exp)":("HS512"|"bob"|-1e9))?\}"#;
    let encode = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let values = prop_oneof![
        visible.prop_map(String::from),
        visible.prop_map(|text| format!("Basic {}", BASE64.encode(text))),
        ("ann|bob|eve|", visible).prop_map(|(user, password)| basic(&user, &password)),
        visible.prop_map(|text| format!("Bearer {text}")),
        (json, json, visible).prop_map(move |(header, claims, signature)| {
            format!("Bearer {}.{}.{}", encode(header), encode(claims), encode(signature))
        }),
    ];
    proptest!(ProptestConfig::with_cases(300), |(value in values)| {
        let received = runtime.block_on(call(&mut caller.borrow_mut(), "GET", "/id", &value));
        assert_is_refusal(&received);
    });
}

#[tokio::test]
async fn strict_refuses_what_is_not_safe_and_says_what_to_do() {
    let peer = peer(RestConfig::default()).await;
    let refused = async |config: RestConfig, parts: &[&str]| {
        let error = RestApi::bind(config, peer.cluster.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        for part in parts {
            assert!(error.message().contains(part), "{error}");
        }
        assert!(!error.message().contains("hunter2"), "{error}");
    };
    let open = |address: &str| {
        RestConfig { security: Security::Strict, ..RestConfig::default() }.listen([address.parse().unwrap()])
    };
    refused(open("/ip4/0.0.0.0/tcp/0"), &["0.0.0.0", "users add", "127.0.0.1"]).await;
    refused(open("/ip6/::/tcp/0"), &["/ip6/::", "users add"]).await;
    let with = |credentials: &[(&str, &str)]| RestConfig {
        authentication: Some(users(credentials)),
        ..open("/ip4/127.0.0.1/tcp/0")
    };
    refused(with(&[("ann", "hunter2")]), &["\"ann\"", "users add ann"]).await;
    refused(with(&[("ann", "$argon2id$hunter2")]), &["\"ann\"", "hash"]).await;
    refused(with(&[]), &["at least one entry"]).await;
    RestApi::bind(open("/ip4/127.0.0.1/tcp/0"), peer.cluster.clone()).await.unwrap().shutdown().await;
    let mut exposed = strict().await;
    exposed.http_listen_multiaddress = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
    RestApi::bind(exposed, peer.cluster.clone()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn our_default_section_tells_pages_of_other_origins_nothing() {
    let config = RestConfig::try_from(&RestApiSection::strict()).unwrap();
    let peer = peer(config).await;
    let mut caller = peer.caller().await;
    for head in [
        "GET /version HTTP/1.1\r\nHost: x\r\nOrigin: http://example.com\r\n\r\n",
        "OPTIONS /version HTTP/1.1\r\nHost: x\r\nOrigin: http://example.com\r\nAccess-Control-Request-Method: GET\r\n\r\n",
    ] {
        caller.send(head).await;
        let received = soon(caller.answer()).await;
        let names: Vec<_> = received.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        assert!(!names.iter().any(|name| name.starts_with("access-control")), "{names:?}");
        assert!(received.header("vary").unwrap().starts_with("Origin"));
    }
}

fn count(received: &Received, name: &str) -> usize {
    received.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count()
}

#[tokio::test]
async fn configured_headers_are_on_answers_of_handlers_and_refusals_alone() {
    let headers: BTreeMap<_, _> = [("X-test".to_owned(), vec!["one".to_owned(), "two".to_owned()])].into();
    let config = RestConfig { headers, ..plain() };
    let peer = peer(config.clone()).await;
    let mut caller = peer.caller().await;
    let good = basic("ann", "secret");
    for (method, path, status, times) in [
        ("GET", "/version", 200, 2),
        ("GET", "/health", 204, 2),
        ("GET", "/allocations", 204, 2),
        ("GET", "/peers", 200, 2),
        ("GET", "/pins?filter=nope", 400, 2),
        ("GET", "/nope", 404, 2),
        ("PUT", "/id", 405, 0),
        ("GET", "/id/", 307, 0),
    ] {
        let received = call(&mut caller, method, path, &good).await;
        assert_eq!((received.status, count(&received, "X-Test")), (status, times), "{method} {path}");
        assert_eq!(received.header("vary"), Some("Origin"), "{method} {path}");
    }
    assert_eq!(count(&call(&mut caller, "GET", "/nope", "").await, "X-Test"), 2);
    caller
        .send("OPTIONS /id HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\nAccess-Control-Request-Method: GET\r\n\r\n")
        .await;
    let preflight = soon(caller.answer()).await;
    assert_eq!((preflight.status, count(&preflight, "X-Test")), (204, 0));

    for (name, value) in [("Content-Length", "3"), ("a b", "x"), ("X-A", "a\r\nb"), ("Connection", "x")] {
        let headers = [(name.to_owned(), vec![value.to_owned()])].into();
        let error = RestConfig { headers, ..RestConfig::default() }.validate().unwrap_err();
        assert!(error.message().starts_with("restapi.headers: "), "{error}");
    }
}

#[tokio::test]
async fn every_request_has_one_line_in_the_log_file() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        RestConfig { access_log: AccessLog::File("rest.log".into()), ..plain() }.in_folder(folder.path());
    let peer = peer(config).await;
    let mut caller = peer.caller().await;
    let good = basic("ann", "secret");
    let version = call(&mut caller, "GET", "/version?a=b", &good).await;
    let peers = call(&mut caller, "GET", "/peers", &good).await;
    assert_eq!(call(&mut caller, "GET", "/allocations", &good).await.status, 204);
    let refused = call(&mut caller, "POST", "/pins/x", "").await;
    assert_eq!(call(&mut caller, "PUT", "/id", &good).await.status, 405);
    drop(caller);
    peer.api.shutdown().await;
    let text = std::fs::read_to_string(folder.path().join("rest.log")).unwrap();
    let expected = [
        format!("ann \"GET /version?a=b HTTP/1.1\" 200 {}", version.body.len()),
        format!("ann \"GET /peers HTTP/1.1\" 200 {}", peers.body.len()),
        "ann \"GET /allocations HTTP/1.1\" 204 0".to_owned(),
        format!("- \"POST /pins/x HTTP/1.1\" 401 {}", refused.body.len()),
        "ann \"PUT /id HTTP/1.1\" 405 0".to_owned(),
    ];
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let (start, rest) = line.split_once(" [").unwrap();
            let (_, request) = rest.split_once("] ").unwrap();
            let user = start.strip_prefix("127.0.0.1 - ").unwrap();
            format!("{user} {request}")
        })
        .collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_router_asks_too() {
    let peer = peer(RestConfig::default()).await;
    let router = router_with(&plain(), peer.cluster.clone()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum_serve(listener, router).await });
    let mut caller = Caller::connect(address).await;
    assert_is_refusal(&call(&mut caller, "GET", "/peers", "").await);
    let received = call(&mut caller, "GET", "/peers", &basic("ann", "secret")).await;
    assert_eq!((received.status, received.header("vary")), (200, Some("Origin")));
    assert_eq!(count(&received, "content-type"), 1);
    server.abort();
}

async fn axum_serve(listener: tokio::net::TcpListener, router: axum::Router) {
    axum::serve(listener, router).await.unwrap();
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_client_sends_a_password_or_a_token() {
    use ipfs_cluster::client::Client;
    let peer = peer(strict().await).await;
    let client = || Client::builder().host(peer.address().to_string()).timeout(super::PATIENCE);
    let anonymous = client().build().unwrap();
    anonymous.health().await.unwrap();
    assert_eq!(anonymous.version().await.unwrap_err().kind(), ErrorKind::Unauthorized);
    let ann = client().basic_auth("ann", "secret").build().unwrap();
    let token = ann.token().await.unwrap();
    let bearer = client().bearer_token(&token).build().unwrap();
    assert!(
        !format!("{bearer:?}").contains(&token)
            && !format!("{:?}", client().bearer_token(&token)).contains(&token)
    );
    assert_eq!(bearer.version().await.unwrap().version, "1.1.6");
    bearer.revoke_token().await.unwrap();
    assert_eq!(bearer.version().await.unwrap_err().kind(), ErrorKind::Unauthorized);
    ann.revoke_all_tokens().await.unwrap();
    assert_eq!(client().bearer_token("a\nb").build().unwrap_err().kind(), ErrorKind::InvalidInput);
}
