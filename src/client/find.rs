//! Finding pins page by page.

use std::collections::BTreeMap;

use super::Request;
use crate::types::{PeerId, Timestamp};

/// What to find in the pinset, beside types and statuses, and how much of it at a time. Peers of the reference (1.1.6)
/// do not know it and list everything.
///
/// ```no_run
/// use ipfs_cluster::client::{Client, Find, Request};
/// use ipfs_cluster::types::{Pin, PinTypeFilter};
///
/// # async fn run(client: Client) -> ipfs_cluster::Result<()> {
/// let mut find = Find { name_prefix: Some("backup-".into()), limit: Some(1_000), ..Find::default() };
/// loop {
///     let page = client.page::<Pin>(&Request::allocations(PinTypeFilter::ALL).find(&find)).await?;
///     for pin in page.items {
///         println!("{} {}", pin.options.name, pin.cid);
///     }
///     find.after = page.next;
///     if find.after.is_none() {
///         return Ok(());
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Find {
    /// Most items of a page, 1 to 10,000; none for all in one stream.
    pub limit: Option<usize>,
    /// What [`Page::next`] said, with everything else as it was; goes with a limit.
    pub after: Option<String>,
    /// Pins of exactly this name.
    pub name: Option<String>,
    /// Pins whose name begins like this.
    pub name_prefix: Option<String>,
    /// Pins with all of these in their metadata.
    pub metadata: BTreeMap<String, String>,
    /// Pins made at this time or later.
    pub created_after: Option<Timestamp>,
    /// Pins made before this time.
    pub created_before: Option<Timestamp>,
    /// Pins that this peer must hold.
    pub peer: Option<PeerId>,
    /// `cid`, `name` or `created`; with `-` in front the last one first.
    pub sort: Option<String>,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its items: at most as many as asked for, and perhaps fewer or none although this is not the last page.
    pub items: Vec<T>,
    /// What [`Find::after`] must be for the next page; none behind the last one.
    pub next: Option<String>,
}

impl Request {
    /// Most items of the page that is asked for.
    pub(super) fn limit(&self) -> Option<usize> {
        self.query.iter().find(|(key, _)| key == "limit").and_then(|(_, limit)| limit.parse().ok())
    }

    /// The same listing (of [`Request::allocations`] or [`Request::status_all`]) of what is to be found.
    #[must_use]
    pub fn find(mut self, find: &Find) -> Self {
        if *find == Find::default() {
            return self;
        }
        // An empty list of CIDs means nothing, and cannot stand beside these.
        self.query.retain(|(key, value)| key != "cids" || !value.is_empty());
        let mut add = |key: &str, value: Option<String>| {
            self.query.extend(value.map(|value| (key.to_owned(), value)));
        };
        add("limit", find.limit.map(|limit| limit.to_string()));
        add("after", find.after.clone());
        add("name", find.name.clone());
        add("name-prefix", find.name_prefix.clone());
        for (key, value) in &find.metadata {
            add(&format!("meta-{key}"), Some(value.clone()));
        }
        add("created-after", find.created_after.map(|time| time.to_string()));
        add("created-before", find.created_before.map(|time| time.to_string()));
        add("peer", find.peer.map(|peer| peer.to_string()));
        add("sort", find.sort.clone());
        self
    }
}
