//! Finding pins, and where they stand, page by page.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::status::AskAll;
use super::{Cluster, Inner, Scope};
use crate::error::Result;
use crate::state::{PAGE_LIMIT_MAX, StateCursor, StateOrder, StatePage, StateQuery, salt};
use crate::types::{GlobalPinInfo, Pin, PinOptions, StatusFilter, TrackerStatus};

/// Most entries of the pinset whose status is asked for to fill one page.
const PAGE_STATUSES_MAX: usize = PAGE_LIMIT_MAX;
/// Most lines looked at to fill one page from a list of what is in hand or failed.
const PAGE_LINES_MAX: usize = 100_000;

/// Statuses of operations: what has one is remembered by the trackers, which list it without looking at everything
/// else, and some of it has left the pinset.
const OPERATIONS: [TrackerStatus; 6] = [
    TrackerStatus::PinQueued,
    TrackerStatus::Pinning,
    TrackerStatus::PinError,
    TrackerStatus::UnpinQueued,
    TrackerStatus::Unpinning,
    TrackerStatus::UnpinError,
];

/// A page of statuses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusPage {
    /// Where the pins of the page stand.
    pub infos: Vec<GlobalPinInfo>,
    /// Where the next page begins; none when this is the last one.
    pub next: Option<StateCursor>,
}

impl Cluster {
    /// A page of the pinset, see [`StateReader::page`](crate::state::StateReader::page): its order, its filters, its
    /// bounds, its cursors.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor of another query; when the pinset cannot be read; `ShutDown`.
    pub async fn pins_page(&self, query: StateQuery, limit: usize) -> Result<StatePage> {
        self.inner.check_alive()?;
        self.inner.state.page(query, limit).await
    }

    /// Where the pins of a query stand that have a status of the filter on any peer asked, at most `limit` of them.
    /// Each peer is asked only about the pins of the page, and of these only about those it must hold: in one call for
    /// each 1,024 of them, or in one for each where the peer knows no other way.
    ///
    /// As with pages of the pinset the work is bounded: where few pins have such a status, a page may have fewer lines
    /// than asked for, or none; the last one is the one without a cursor. A filter of nothing but operations
    /// (`pinning`, `pin_error`, …) on an order by CID is answered from the lists that peers keep of them, so that what
    /// has left the pinset and is still being unpinned is found; without a filter only what is in the pinset is listed.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor of another query, filter or scope; when the pinset or the members cannot be read;
    /// `ShutDown`.
    pub async fn status_page(
        &self,
        query: StateQuery,
        filter: StatusFilter,
        limit: usize,
        scope: Scope,
    ) -> Result<StatusPage> {
        self.inner.status_page(Asked { query, filter, scope }, limit).await
    }

    /// The same as one stream from the query's cursor, or its beginning, to the end. Memory does not depend on the
    /// number of pins.
    pub fn status_of(
        &self,
        query: StateQuery,
        filter: StatusFilter,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        let inner = Arc::clone(&self.inner);
        let stream = async_stream::try_stream! {
            if is_by_operations(&query, filter) {
                inner.check_alive()?;
                let salt = salt_of(filter, scope);
                let query = StateQuery { after: query.after.map(|cursor| cursor.salted(salt)), ..query };
                let after = query.position()?;
                let mut lines = inner.all(AskAll::Status(filter), scope);
                // The stream keeps nothing of this peer but what it needs to go on.
                drop(inner);
                while let Some(read) = lines.next().await {
                    let mut infos = read?;
                    infos.retain(|info| is_after(info, after.as_deref()) && query.matches(&pin_of(info)));
                    if !infos.is_empty() {
                        yield infos;
                    }
                }
            } else {
                let mut asked = Asked { query, filter, scope };
                loop {
                    let page = inner.status_page(asked.clone(), STREAM_PAGE_ITEMS).await?;
                    if !page.infos.is_empty() {
                        yield page.infos;
                    }
                    match page.next {
                        Some(next) => asked.query.after = Some(next),
                        None => break,
                    }
                }
            }
        };
        stream.boxed()
    }
}

/// Which statuses of which pins on which peers.
#[derive(Clone, Debug)]
struct Asked {
    query: StateQuery,
    filter: StatusFilter,
    scope: Scope,
}

/// Lines in one page of a stream of statuses.
const STREAM_PAGE_ITEMS: usize = 1_024;

impl Inner {
    async fn status_page(self: &Arc<Self>, mut asked: Asked, limit: usize) -> Result<StatusPage> {
        self.check_alive()?;
        let limit = limit.clamp(1, PAGE_LIMIT_MAX);
        let salt = salt_of(asked.filter, asked.scope);
        asked.query.after = asked.query.after.map(|cursor| cursor.salted(salt));
        let page = if is_by_operations(&asked.query, asked.filter) {
            self.operations_page(asked, limit).await
        } else {
            self.pinset_page(asked, limit).await
        };
        page.map(|page| StatusPage { next: page.next.map(|cursor| cursor.salted(salt)), ..page })
    }

    /// Pins as the pinset lists them, each with its status.
    async fn pinset_page(self: &Arc<Self>, mut asked: Asked, limit: usize) -> Result<StatusPage> {
        let members = match asked.scope {
            Scope::Local => Vec::new(),
            Scope::Global => self.asked().await?,
        };
        let mut page = StatusPage::default();
        let mut looked_at = 0;
        loop {
            let left = limit - page.infos.len();
            let StatePage { pins, next } = self.state.page(asked.query.clone(), left).await?;
            looked_at += pins.len();
            let is_bounded = pins.is_empty();
            let own = self.tracker.statuses(pins.clone()).await?;
            let infos = match asked.scope {
                Scope::Local => own.into_iter().map(Into::into).collect(),
                Scope::Global => self.others_too(pins.into_iter().zip(own).collect(), &members).await,
            };
            page.infos.extend(infos.into_iter().filter_map(|info| filtered(info, asked.filter)));
            page.next = next;
            let Some(next) = &page.next else { break };
            if is_bounded || page.infos.len() >= limit || looked_at >= PAGE_STATUSES_MAX {
                break;
            }
            asked.query.after = Some(next.clone());
        }
        Ok(page)
    }

    /// What has an operation, as the peers list them.
    async fn operations_page(self: &Arc<Self>, asked: Asked, limit: usize) -> Result<StatusPage> {
        let Asked { query, filter, scope } = asked;
        let after = query.position()?;
        let mut lines = self.all(AskAll::Status(filter), scope);
        let mut page = StatusPage::default();
        let mut seen = 0;
        let mut last = None;
        while let Some(read) = lines.next().await {
            for info in read? {
                if !is_after(&info, after.as_deref()) {
                    continue;
                }
                // This line is for the next page, if there is one.
                if page.infos.len() >= limit || seen >= PAGE_LINES_MAX {
                    page.next = last.map(|last: Vec<u8>| query.cursor_at(last));
                    return Ok(page);
                }
                seen += 1;
                last = Some(info.cid.to_bytes());
                if query.matches(&pin_of(&info)) {
                    page.infos.push(info);
                }
            }
        }
        Ok(page)
    }
}

/// What of a question for statuses is not in its query.
fn salt_of(filter: StatusFilter, scope: Scope) -> u64 {
    salt(&format!("status {filter} {scope:?}"))
}

/// Whether the lists of operations answer: they come by CID.
fn is_by_operations(query: &StateQuery, filter: StatusFilter) -> bool {
    is_of_operations(filter) && query.resolved_order() == StateOrder::Cid && !query.descending
}

/// Whether a line comes behind a position.
fn is_after(info: &GlobalPinInfo, position: Option<&[u8]>) -> bool {
    position.is_none_or(|position| info.cid.to_bytes().as_slice() > position)
}

fn is_of_operations(filter: StatusFilter) -> bool {
    let wanted = TrackerStatus::ALL.into_iter().filter(|status| filter.matches(*status));
    filter != StatusFilter::ALL && wanted.collect::<BTreeSet<_>>().is_subset(&OPERATIONS.into())
}

/// A line with the peers that have a status of the filter; none if no peer has.
fn filtered(mut info: GlobalPinInfo, filter: StatusFilter) -> Option<GlobalPinInfo> {
    info.peer_map.retain(|_, status| filter.matches(status.status));
    (!info.peer_map.is_empty()).then_some(info)
}

/// As much of a pin as a line tells.
fn pin_of(info: &GlobalPinInfo) -> Pin {
    // Who is pinned everywhere has no allocations.
    let factor = if info.allocations.is_empty() { -1 } else { 1 };
    let options = PinOptions {
        replication_factor_min: factor,
        replication_factor_max: factor,
        name: info.name.clone(),
        metadata: info.metadata.clone(),
        ..PinOptions::default()
    };
    Pin { allocations: info.allocations.clone(), timestamp: info.created, ..Pin::new(info.cid, options) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_operations_answer_filters_of_nothing_else() {
        for (filter, expected) in [
            ("pinning", true),
            ("pin_error,unpin_error", true),
            ("queued", true),
            ("", false),
            ("error", false),
            ("pinned", false),
            ("pinning,remote", false),
        ] {
            assert_eq!(is_of_operations(filter.parse().unwrap()), expected, "{filter:?}");
        }
    }
}
