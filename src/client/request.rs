//! What is asked of an API: method, path and query, as the reference's clients send them. Pure.

use reqwest::{Method, Url};

use super::Watch;
use crate::error::{Error, Result};
use crate::types::{
    AddFormat, AddLayout, AddOptions, Cid, IpfsPath, PeerId, PinMode, PinOptions, PinType, PinTypeFilter,
    Resume, ResumeKey, StatusFilter,
};

/// Bytes of CIDs that one request carries in its query. Peers take at most 4,096 bytes of headers.
const CIDS_QUERY_BYTES_MAX: usize = 2048;

/// One call of the REST API, ready to be sent with [`Client::fetch`], [`Client::call`] or [`Client::stream`].
///
/// The methods of [`Client`] are all that most programs need. A `Request` is for those that want another form
/// of the answer: its JSON as it came, or a type of their own.
///
/// ```no_run
/// use ipfs_cluster::client::{Client, Request};
/// # async fn show(client: Client) -> ipfs_cluster::Result<()> {
/// let id: serde_json::Value = client.fetch(&Request::id()).await?;
/// println!("{}", id["peername"]);
/// # Ok(())
/// # }
/// ```
///
/// [`Client`]: super::Client
/// [`Client::fetch`]: super::Client::fetch
/// [`Client::call`]: super::Client::call
/// [`Client::stream`]: super::Client::stream
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: Method,
    segments: Vec<String>,
    /// In the order in which it is sent. Empty values are sent too, as the reference's clients do.
    pub(super) query: Vec<(String, String)>,
    /// The answer goes on for as long as it is read.
    pub(super) is_endless: bool,
}

impl Request {
    fn new<S: Into<String>>(method: Method, segments: impl IntoIterator<Item = S>) -> Self {
        Self {
            method,
            segments: segments.into_iter().map(Into::into).collect(),
            query: Vec::new(),
            is_endless: false,
        }
    }

    fn get<S: Into<String>>(segments: impl IntoIterator<Item = S>) -> Self {
        Self::new(Method::GET, segments)
    }

    fn post<S: Into<String>>(segments: impl IntoIterator<Item = S>) -> Self {
        Self::new(Method::POST, segments)
    }

    fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.query.push((key.to_owned(), value.into()));
        self
    }

    fn local(self, local: bool) -> Self {
        self.with("local", local.to_string())
    }

    fn of_path(method: Method, path: &IpfsPath) -> Self {
        Self::new(method, std::iter::once("pins").chain(path.segments().iter().map(String::as_str)))
    }

    /// `GET /id`: one [`PeerInfo`](crate::types::PeerInfo).
    pub fn id() -> Self {
        Self::get(["id"])
    }

    /// `GET /version`: one [`Version`](crate::types::Version).
    pub fn version() -> Self {
        Self::get(["version"])
    }

    /// `GET /health`: no content.
    pub fn health() -> Self {
        Self::get(["health"])
    }

    /// `POST /token`: `{"token":"…"}`.
    pub fn token() -> Self {
        Self::post(["token"])
    }

    /// `DELETE /token`, of the one that is sent or of all: no content. Peers of the reference do not know it.
    pub fn revoke_token(all: bool) -> Self {
        Self::new(Method::DELETE, ["token"]).with("all", all.to_string())
    }

    /// `GET /peers`: a stream of [`PeerInfo`](crate::types::PeerInfo).
    pub fn peers() -> Self {
        Self::get(["peers"])
    }

    /// `DELETE /peers/{peer}`: no content.
    pub fn peer_rm(peer: &PeerId) -> Self {
        Self::new(Method::DELETE, ["peers".to_owned(), peer.to_string()])
    }

    /// `POST /pins/{path}` with options: one [`Pin`](crate::types::Pin). A CID goes as `/ipfs/<cid>`, because
    /// only that form of the call respects the mode.
    pub fn pin(what: impl Into<IpfsPath>, options: &PinOptions) -> Self {
        let mut request = Self::of_path(Method::POST, &what.into());
        request.query = pin_query(options);
        request
    }

    /// `DELETE /pins/{path}`: one [`Pin`](crate::types::Pin), as it was.
    pub fn unpin(what: impl Into<IpfsPath>) -> Self {
        Self::of_path(Method::DELETE, &what.into())
    }

    /// `GET /allocations/{cid}`: one [`Pin`](crate::types::Pin).
    pub fn allocation(cid: &Cid) -> Self {
        Self::get(["allocations".to_owned(), cid.to_string()])
    }

    /// `GET /allocations`: a stream of [`Pin`](crate::types::Pin).
    pub fn allocations(filter: PinTypeFilter) -> Self {
        let names = if filter == PinTypeFilter::ALL {
            "all".to_owned()
        } else {
            let wanted = PinType::ALL.into_iter().filter(|kind| filter.matches(*kind));
            wanted.map(PinType::as_str).collect::<Vec<_>>().join(",")
        };
        Self::get(["allocations"]).with("filter", names)
    }

    /// `GET /pins/{cid}`: one [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn status(cid: &Cid, local: bool) -> Self {
        Self::get(["pins".to_owned(), cid.to_string()]).local(local)
    }

    /// `GET /pins` for some CIDs: a stream of [`GlobalPinInfo`](crate::types::GlobalPinInfo). Several requests,
    /// to be streamed one after the other, when the CIDs do not fit into the header of one.
    pub fn status_cids(cids: &[Cid], local: bool) -> Vec<Self> {
        let mut lists: Vec<String> = Vec::new();
        for cid in cids {
            let cid = cid.to_string();
            match lists.last_mut() {
                Some(list) if list.len() + cid.len() < CIDS_QUERY_BYTES_MAX => {
                    list.push(',');
                    list.push_str(&cid);
                }
                _ => lists.push(cid),
            }
        }
        let request = |cids| Self::get(["pins"]).local(local).with("filter", "").with("cids", cids);
        lists.into_iter().map(request).collect()
    }

    /// `GET /pins`: a stream of [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn status_all(filter: StatusFilter, local: bool) -> Self {
        let names = match filter {
            StatusFilter::ERROR => "error".to_owned(),
            StatusFilter::QUEUED => "queued".to_owned(),
            _ => filter.to_string(),
        };
        Self::get(["pins"]).local(local).with("filter", names).with("cids", "")
    }

    /// `POST /pins/{cid}/recover`: one [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn recover(cid: &Cid, local: bool) -> Self {
        Self::post(["pins".to_owned(), cid.to_string(), "recover".to_owned()]).local(local)
    }

    /// `POST /pins/recover`: a stream of [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn recover_all(local: bool) -> Self {
        Self::post(["pins", "recover"]).local(local)
    }

    /// `POST /pins/{cid}/sync`: one [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn sync(cid: &Cid, local: bool) -> Self {
        Self::post(["pins".to_owned(), cid.to_string(), "sync".to_owned()]).local(local)
    }

    /// `POST /pins/sync`: a stream of [`GlobalPinInfo`](crate::types::GlobalPinInfo).
    pub fn sync_all(local: bool) -> Self {
        Self::post(["pins", "sync"]).local(local)
    }

    /// `GET /monitor/metrics`: one list of names.
    pub fn metric_names() -> Self {
        Self::get(["monitor", "metrics"])
    }

    /// `GET /monitor/metrics/{name}`: one list of [`Metric`](crate::types::Metric).
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be part of an address: empty, `.` or `..`.
    pub fn metrics(name: &str) -> Result<Self> {
        if matches!(name, "" | "." | "..") {
            return Err(
                Error::invalid_input(format!("{name:?} is not the name of a metric")).component("client")
            );
        }
        Ok(Self::get(["monitor", "metrics", name]))
    }

    /// `GET /health/alerts`: one list of [`Alert`](crate::types::Alert).
    pub fn alerts() -> Self {
        Self::get(["health", "alerts"])
    }

    /// `GET /health/graph`: one [`ConnectGraph`](crate::types::ConnectGraph).
    pub fn graph() -> Self {
        Self::get(["health", "graph"])
    }

    /// `GET /health/bandwidth`: one map from protocol to [`Bandwidth`](super::Bandwidth).
    pub fn bandwidth() -> Self {
        Self::get(["health", "bandwidth"])
    }

    /// `POST /ipfs/gc`: one [`GlobalRepoGc`](crate::types::GlobalRepoGc).
    pub fn repo_gc(local: bool) -> Self {
        Self::post(["ipfs", "gc"]).local(local)
    }

    /// `POST /add`, of which the body is not a part: a stream of [`Added`](crate::types::Added).
    pub(super) fn add(options: &AddOptions, recursive: bool, hidden: bool) -> Self {
        let pin = PinOptions { mode: PinMode::Recursive, pin_update: None, ..options.pin.clone() };
        let mut request = Self { query: pin_query(&pin), ..Self::post(["add"]) };
        let layout = match options.layout {
            // The default goes without a name, as in the reference.
            AddLayout::Balanced => "",
            AddLayout::Trickle => "trickle",
        };
        let format = match options.format {
            AddFormat::UnixFs => "unixfs",
            AddFormat::Car => "car",
        };
        for (key, value) in [
            ("chunker", options.chunker.clone()),
            ("cid-version", options.cid_version.to_string()),
            ("format", format.to_owned()),
            ("hash", options.hash.clone()),
            ("hidden", hidden.to_string()),
            ("layout", layout.to_owned()),
            ("local", options.local.to_string()),
            ("no-pin", options.no_pin.to_string()),
            ("nocopy", options.no_copy.to_string()),
            ("progress", options.progress.to_string()),
            ("raw-leaves", options.raw_leaves.unwrap_or(options.cid_version > 0).to_string()),
            ("recursive", recursive.to_string()),
            ("shard", options.shard.to_string()),
            ("stream-channels", true.to_string()),
            ("wrap-with-directory", options.wrap.to_string()),
        ] {
            request.query.push((key.to_owned(), value));
        }
        if let Some(Resume { key, offset }) = &options.resume {
            request.query.push(("resume".to_owned(), key.to_string()));
            request.query.push(("offset".to_owned(), offset.to_string()));
        }
        request.query.sort();
        request
    }

    /// `GET /add/{key}`: one [`InterruptedAdd`](crate::types::InterruptedAdd). Peers of the reference (1.1.6) do not know it.
    pub fn interrupted_add(key: &ResumeKey) -> Self {
        Self::get(["add", key.as_str()])
    }

    /// `GET /leases`: a stream of [`Lease`](crate::types::Lease). Peers of the reference (1.1.6) do not know it.
    pub fn leases() -> Self {
        Self::get(["leases"])
    }

    /// `DELETE /leases/{cid}`: no content. Peers of the reference (1.1.6) do not know it.
    pub fn release_lease(cid: &Cid) -> Self {
        Self::new(Method::DELETE, ["leases".to_owned(), cid.to_string()])
    }

    /// `GET /events`: a stream of [`Event`](crate::types::Event), heartbeats among them, without an end. Peers of the
    /// reference (1.1.6) do not know it.
    pub fn events(watch: &Watch) -> Self {
        let mut request = Self { is_endless: true, ..Self::get(["events"]) };
        if let Some(after) = watch.after {
            request = request.with("after", after.to_string());
        }
        if let Some(kinds) = watch.kinds {
            request = request.with("kind", kinds.to_string());
        }
        if !watch.cids.is_empty() {
            let cids: Vec<_> = watch.cids.iter().map(Cid::to_string).collect();
            request = request.with("cid", cids.join(","));
        }
        request.with("heartbeat", "true")
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// The address of this call on a host. Names are escaped, so that none can leave its place.
    pub(super) fn url(&self, host: &Url) -> Url {
        let mut url = host.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(&self.segments);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// Options as the reference's clients write them: sorted, the first six always there.
fn pin_query(options: &PinOptions) -> Vec<(String, String)> {
    fn joined<T: ToString>(items: &[T]) -> String {
        items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
    }
    let mut query = vec![
        ("mode".to_owned(), options.mode.to_string()),
        ("name".to_owned(), options.name.clone()),
        ("replication-max".to_owned(), options.replication_factor_max.to_string()),
        ("replication-min".to_owned(), options.replication_factor_min.to_string()),
        ("shard-size".to_owned(), options.shard_size.to_string()),
        ("user-allocations".to_owned(), joined(&options.user_allocations)),
    ];
    query.extend(options.expire_at.map(|time| ("expire-at".to_owned(), time.to_string())));
    let metadata = options.metadata.iter().filter(|(key, _)| !key.is_empty());
    query.extend(metadata.map(|(key, value)| (format!("meta-{key}"), value.clone())));
    query.extend(options.pin_update.map(|cid| ("pin-update".to_owned(), cid.to_string())));
    if !options.origins.is_empty() {
        query.push(("origins".to_owned(), joined(&options.origins)));
    }
    query.sort();
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Find;
    use crate::types::{TrackerStatus, parse_cid, parse_multiaddr, parse_peer};

    const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
    const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

    fn line(request: &Request) -> String {
        let url = request.url(&Url::parse("http://h:1/").unwrap());
        format!("{} {}", request.method(), &url.as_str()["http://h:1".len()..])
    }

    #[test]
    fn calls_are_written_as_the_references_client_writes_them() {
        let cid = parse_cid(CID).unwrap();
        let path: IpfsPath = format!("/ipfs/{CID}/a b/c?d#e%f").parse().unwrap();
        for (request, wanted) in [
            (Request::id(), "GET /id".to_owned()),
            (Request::peer_rm(&parse_peer(PEER).unwrap()), format!("DELETE /peers/{PEER}")),
            (
                Request::pin(cid, &PinOptions::default()),
                format!(
                    "POST /pins/ipfs/{CID}?mode=recursive&name=&replication-max=0&replication-min=0&shard-size=0&user-allocations="
                ),
            ),
            (Request::interrupted_add(&"k-1".parse().unwrap()), "GET /add/k-1".to_owned()),
            (Request::leases(), "GET /leases".to_owned()),
            (Request::release_lease(&cid), format!("DELETE /leases/{CID}")),
            (Request::unpin(path), format!("DELETE /pins/ipfs/{CID}/a%20b/c%3Fd%23e%25f")),
            (Request::allocations(PinTypeFilter::ALL), "GET /allocations?filter=all".to_owned()),
            (
                Request::allocations("shard-pin,meta-pin".parse().unwrap()),
                "GET /allocations?filter=meta-pin%2Cshard-pin".to_owned(),
            ),
            (Request::status(&cid, true), format!("GET /pins/{CID}?local=true")),
            (Request::status_all(StatusFilter::ALL, false), "GET /pins?local=false&filter=&cids=".to_owned()),
            (
                Request::status_all(TrackerStatus::Pinning.into(), true),
                "GET /pins?local=true&filter=pinning&cids=".to_owned(),
            ),
            (
                Request::status_all(StatusFilter::ERROR, false),
                "GET /pins?local=false&filter=error&cids=".to_owned(),
            ),
            (
                Request::status_all(StatusFilter::ALL, true).find(&Find::default()),
                "GET /pins?local=true&filter=&cids=".to_owned(),
            ),
            (
                Request::status_all(StatusFilter::ALL, true).find(&Find {
                    limit: Some(7),
                    after: Some("abc_-".into()),
                    name: Some(String::new()),
                    name_prefix: Some("a b".into()),
                    metadata: [("k".to_owned(), "v&".to_owned()), ("ü".to_owned(), String::new())].into(),
                    created_after: Some("2026-01-02T03:04:05.5Z".parse().unwrap()),
                    created_before: Some("2026-01-03T00:00:00Z".parse().unwrap()),
                    peer: Some(parse_peer(PEER).unwrap()),
                    sort: Some("-created".into()),
                }),
                format!(
                    "GET /pins?local=true&filter=&limit=7&after=abc_-&name=&name-prefix=a+b&meta-k=v%26\
                     &meta-%C3%BC=&created-after=2026-01-02T03%3A04%3A05.5Z\
                     &created-before=2026-01-03T00%3A00%3A00Z&peer={PEER}&sort=-created"
                ),
            ),
            (Request::recover(&cid, false), format!("POST /pins/{CID}/recover?local=false")),
            (Request::recover_all(true), "POST /pins/recover?local=true".to_owned()),
            (Request::sync(&cid, false), format!("POST /pins/{CID}/sync?local=false")),
            (Request::sync_all(false), "POST /pins/sync?local=false".to_owned()),
            (Request::metrics("tag:group").unwrap(), "GET /monitor/metrics/tag:group".to_owned()),
            (Request::metrics("a/b c").unwrap(), "GET /monitor/metrics/a%2Fb%20c".to_owned()),
            (Request::repo_gc(true), "POST /ipfs/gc?local=true".to_owned()),
        ] {
            assert_eq!(line(&request), wanted);
        }
    }

    #[test]
    fn every_pin_option_travels_sorted_by_key() {
        let options = PinOptions {
            replication_factor_min: 1,
            replication_factor_max: -1,
            name: "two words&more".into(),
            mode: crate::types::PinMode::Direct,
            shard_size: 7,
            user_allocations: vec![parse_peer(PEER).unwrap(); 2],
            expire_at: Some("2026-11-21T01:41:42.5Z".parse().unwrap()),
            metadata: [("k", "v=1"), ("", "ignored"), ("ü", "é")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            pin_update: Some(parse_cid(CID).unwrap()),
            origins: vec![parse_multiaddr(&format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER}")).unwrap()],
        };
        assert_eq!(
            line(&Request::pin(parse_cid(CID).unwrap(), &options)),
            format!(
                "POST /pins/ipfs/{CID}?expire-at=2026-11-21T01%3A41%3A42.5Z&meta-k=v%3D1&meta-%C3%BC=%C3%A9\
                 &mode=direct&name=two+words%26more\
                 &origins=%2Fip4%2F10.0.0.1%2Ftcp%2F1%2Fp2p%2F{PEER}&pin-update={CID}\
                 &replication-max=-1&replication-min=1&shard-size=7&user-allocations={PEER}%2C{PEER}"
            )
        );
    }

    #[test]
    fn an_upload_is_asked_for_as_the_references_client_asks() {
        // From api.DefaultAddParams().ToQueryString(), without a shard size.
        assert_eq!(
            line(&Request::add(&AddOptions::default(), false, false)),
            "POST /add?chunker=size-262144&cid-version=0&format=unixfs&hash=sha2-256&hidden=false&layout=&local=false\
             &mode=recursive&name=&no-pin=false&nocopy=false&progress=false&raw-leaves=false&recursive=false\
             &replication-max=0&replication-min=0&shard=false&shard-size=0&stream-channels=true&user-allocations=\
             &wrap-with-directory=false"
        );
        let options = AddOptions {
            pin: PinOptions {
                name: "n".into(),
                mode: PinMode::Direct,
                pin_update: Some(parse_cid(CID).unwrap()),
                ..PinOptions::default()
            },
            format: AddFormat::Car,
            layout: AddLayout::Trickle,
            chunker: "rabin-1-2-3".into(),
            cid_version: 1,
            hash: "blake2b-256".into(),
            wrap: true,
            no_copy: true,
            local: true,
            no_pin: true,
            shard: true,
            progress: true,
            ..AddOptions::default()
        };
        assert_eq!(
            line(&Request::add(&options, true, true)),
            "POST /add?chunker=rabin-1-2-3&cid-version=1&format=car&hash=blake2b-256&hidden=true&layout=trickle\
             &local=true&mode=recursive&name=n&no-pin=true&nocopy=true&progress=true&raw-leaves=true&recursive=true\
             &replication-max=0&replication-min=0&shard=true&shard-size=0&stream-channels=true&user-allocations=\
             &wrap-with-directory=true"
        );
        let resume = Some(Resume { key: "k-1".parse().unwrap(), offset: 77 });
        let resumed = line(&Request::add(&AddOptions { resume, ..options.clone() }, true, true));
        assert!(resumed.contains("&offset=77&") && resumed.contains("&resume=k-1&"), "{resumed}");
        let cooked = AddOptions { raw_leaves: Some(false), ..options };
        assert!(line(&Request::add(&cooked, true, true)).contains("&raw-leaves=false&"));
    }

    #[test]
    fn many_cids_are_split_so_that_every_header_stays_small() {
        let cid = parse_cid(CID).unwrap();
        assert!(Request::status_cids(&[], true).is_empty());
        let one = Request::status_cids(&[cid, cid], false);
        assert_eq!(
            one.iter().map(line).collect::<Vec<_>>(),
            [format!("GET /pins?local=false&filter=&cids={CID}%2C{CID}")]
        );
        let many = Request::status_cids(&[cid; 1000], false);
        let lengths: Vec<usize> = many.iter().map(|request| line(request).len()).collect();
        assert!(many.len() > 10 && lengths.iter().all(|length| *length < 2300), "{lengths:?}");
        let sent: usize = many.iter().map(|request| line(request).matches(CID).count()).sum();
        assert_eq!(sent, 1000);
    }
}
