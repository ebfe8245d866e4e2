//! Which endpoint a method and a path name.
//!
//! Not axum's router, because the reference answers a known path with a wrong method by a rule of its own, and because
//! one table that is walked costs less than a tree of boxed services.

use hyper::Method;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Id,
    Version,
    Peers,
    AddPeer,
    RemovePeer,
    AddContent,
    Allocations,
    Allocation,
    StatusAll,
    Recover,
    RecoverAll,
    Sync,
    SyncAll,
    Status,
    Pin,
    PinPath,
    Unpin,
    UnpinPath,
    RepoGc,
    Graph,
    Alerts,
    Bandwidth,
    Metrics,
    MetricNames,
    Token,
    RevokeToken,
    OpenApi,
    Health,
    Events,
    InterruptedAdd,
    Leases,
    ReleaseLease,
}

/// Part of a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Exactly this.
    Is(&'static str),
    /// Anything but nothing; what is captured.
    Any,
    /// `/ipfs/…`, `/ipns/…` or `/ipld/…` to the end; what is captured, from this slash on.
    IpfsPath,
}

use Part::{Any, IpfsPath, Is};

/// Every endpoint, in the reference's order, which decides between 404 and 405.
static ROUTES: &[(Method, &[Part], Endpoint)] = &[
    (Method::GET, &[Is("id")], Endpoint::Id),
    (Method::GET, &[Is("version")], Endpoint::Version),
    (Method::GET, &[Is("peers")], Endpoint::Peers),
    (Method::POST, &[Is("peers")], Endpoint::AddPeer),
    (Method::DELETE, &[Is("peers"), Any], Endpoint::RemovePeer),
    (Method::POST, &[Is("add")], Endpoint::AddContent),
    (Method::GET, &[Is("allocations")], Endpoint::Allocations),
    (Method::GET, &[Is("allocations"), Any], Endpoint::Allocation),
    (Method::GET, &[Is("pins")], Endpoint::StatusAll),
    (Method::POST, &[Is("pins"), Any, Is("recover")], Endpoint::Recover),
    (Method::POST, &[Is("pins"), Is("recover")], Endpoint::RecoverAll),
    // These two are ours: the reference dropped them.
    (Method::POST, &[Is("pins"), Any, Is("sync")], Endpoint::Sync),
    (Method::POST, &[Is("pins"), Is("sync")], Endpoint::SyncAll),
    (Method::GET, &[Is("pins"), Any], Endpoint::Status),
    (Method::POST, &[Is("pins"), Any], Endpoint::Pin),
    (Method::POST, &[Is("pins"), IpfsPath], Endpoint::PinPath),
    (Method::DELETE, &[Is("pins"), Any], Endpoint::Unpin),
    (Method::DELETE, &[Is("pins"), IpfsPath], Endpoint::UnpinPath),
    // Ours too. Here, where no other answer changes because there is a DELETE more.
    (Method::DELETE, &[Is("token")], Endpoint::RevokeToken),
    (Method::DELETE, &[Is("leases"), Any], Endpoint::ReleaseLease),
    (Method::POST, &[Is("ipfs"), Is("gc")], Endpoint::RepoGc),
    (Method::GET, &[Is("health"), Is("graph")], Endpoint::Graph),
    (Method::GET, &[Is("health"), Is("alerts")], Endpoint::Alerts),
    (Method::GET, &[Is("health"), Is("bandwidth")], Endpoint::Bandwidth),
    // Ours as well, and of no path of the reference's.
    (Method::GET, &[Is("events")], Endpoint::Events),
    (Method::GET, &[Is("add"), Any], Endpoint::InterruptedAdd),
    (Method::GET, &[Is("leases")], Endpoint::Leases),
    (Method::GET, &[Is("monitor"), Is("metrics"), Any], Endpoint::Metrics),
    (Method::GET, &[Is("monitor"), Is("metrics")], Endpoint::MetricNames),
    (Method::POST, &[Is("token")], Endpoint::Token),
    // Before the last one, where no other answer changes because there is a GET more.
    (Method::GET, &[Is("openapi.json")], Endpoint::OpenApi),
    (Method::GET, &[Is("health")], Endpoint::Health),
];

/// What a path of content begins with.
pub(super) const NAMESPACES: [&str; 3] = ["ipfs", "ipns", "ipld"];

/// The table: methods, parts of paths, endpoints.
pub(super) fn all() -> impl Iterator<Item = (&'static Method, &'static [Part], Endpoint)> {
    ROUTES.iter().map(|(method, parts, endpoint)| (method, *parts, *endpoint))
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// To this endpoint, with what its path captured.
    Endpoint(Endpoint, &'a str),
    /// The path is known, the method is not.
    WrongMethod,
    /// Nowhere.
    Unknown,
}

/// Finds where a request goes; `path` is percent-decoded.
pub(super) fn target<'a>(method: &Method, path: &'a str) -> Target<'a> {
    for (route_method, parts, endpoint) in ROUTES {
        if route_method == method
            && let Some(captured) = matches(parts, path)
        {
            return Target::Endpoint(*endpoint, captured);
        }
    }
    // The reference forgets that it saw the path when a later route takes the method.
    match ROUTES.iter().rposition(|(_, parts, _)| matches(parts, path).is_some()) {
        Some(last) if ROUTES[last + 1..].iter().all(|(later, _, _)| later != method) => Target::WrongMethod,
        _ => Target::Unknown,
    }
}

/// What a path captures; empty for one that captures nothing.
fn matches<'a>(parts: &[Part], path: &'a str) -> Option<&'a str> {
    let mut rest = path;
    let mut captured = "";
    for part in parts {
        let tail = rest.strip_prefix('/')?;
        let end = tail.find('/').unwrap_or(tail.len());
        let (segment, after) = tail.split_at(end);
        match part {
            Is(name) if *name == segment => {}
            Any if !segment.is_empty() => captured = segment,
            IpfsPath if NAMESPACES.contains(&segment) && !after.is_empty() => {
                return Some(rest);
            }
            Is(_) | Any | IpfsPath => return None,
        }
        rest = after;
    }
    rest.is_empty().then_some(captured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_endpoints() {
        use Endpoint as E;
        for (method, path, endpoint, captured) in [
            ("GET", "/id", E::Id, ""),
            ("POST", "/peers", E::AddPeer, ""),
            ("DELETE", "/peers/x", E::RemovePeer, "x"),
            ("GET", "/allocations", E::Allocations, ""),
            ("GET", "/allocations/x", E::Allocation, "x"),
            ("GET", "/pins", E::StatusAll, ""),
            ("POST", "/pins/recover", E::RecoverAll, ""),
            ("GET", "/pins/recover", E::Status, "recover"),
            ("POST", "/pins/sync", E::SyncAll, ""),
            ("POST", "/pins/x/recover", E::Recover, "x"),
            ("POST", "/pins/x/sync", E::Sync, "x"),
            ("GET", "/pins/x", E::Status, "x"),
            ("POST", "/pins/x", E::Pin, "x"),
            ("DELETE", "/pins/x", E::Unpin, "x"),
            ("POST", "/pins/ipfs/x/a/b", E::PinPath, "/ipfs/x/a/b"),
            ("DELETE", "/pins/ipns/x", E::UnpinPath, "/ipns/x"),
            ("POST", "/ipfs/gc", E::RepoGc, ""),
            ("GET", "/monitor/metrics", E::MetricNames, ""),
            ("GET", "/monitor/metrics/tag:group", E::Metrics, "tag:group"),
            ("GET", "/health", E::Health, ""),
            ("POST", "/token", E::Token, ""),
            ("DELETE", "/token", E::RevokeToken, ""),
            ("GET", "/health/graph", E::Graph, ""),
            ("GET", "/events", E::Events, ""),
            ("GET", "/openapi.json", E::OpenApi, ""),
            ("GET", "/add/key", E::InterruptedAdd, "key"),
            ("GET", "/leases", E::Leases, ""),
            ("DELETE", "/leases/x", E::ReleaseLease, "x"),
        ] {
            let method = method.parse().unwrap();
            assert_eq!(target(&method, path), Target::Endpoint(endpoint, captured), "{method} {path}");
        }
    }

    #[test]
    fn a_wrong_method_is_405_or_404_as_in_the_reference() {
        use Target::{Unknown, WrongMethod};
        for (method, path, expected) in [
            ("PUT", "/pins", WrongMethod),
            ("HEAD", "/health", WrongMethod),
            ("OPTIONS", "/id", WrongMethod),
            ("PATCH", "/id", WrongMethod),
            ("POST", "/health", WrongMethod),
            ("DELETE", "/health", WrongMethod),
            ("DELETE", "/ipfs/gc", WrongMethod),
            ("POST", "/openapi.json", WrongMethod),
            ("POST", "/id", Unknown),
            ("DELETE", "/id", Unknown),
            ("GET", "/add", Unknown),
            ("GET", "/leases/x", Unknown),
            ("GET", "/token", Unknown),
            ("GET", "/ipfs/gc", Unknown),
            ("GET", "/pins/ipfs/x", Unknown),
            ("PUT", "/nope", Unknown),
            ("GET", "/nope", Unknown),
            ("DELETE", "/events", WrongMethod),
            ("POST", "/events", Unknown),
            ("GET", "/events/x", Unknown),
            ("GET", "/pins//x", Unknown),
            ("POST", "/pins/http/x", Unknown),
            ("GET", "", Unknown),
            ("GET", "id", Unknown),
        ] {
            assert_eq!(target(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }
}
