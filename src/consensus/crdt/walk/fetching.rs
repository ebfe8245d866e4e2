//! Getting blocks, and looking up which of them are merged already.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{AbortHandle, Abortable, Either, FutureExt as _, select};
use tokio::time::Instant;

use super::super::frontier::Ask;
use super::super::key::{Digest, block_cid, block_digest};
use super::super::ledger::Ledger;
use super::super::node::{BLOCK_BYTES_MAX, Node};
use super::{Ended, Walker};
use crate::error::{Error, ErrorKind, Result};
use crate::exchange::BlockExchange;
use crate::types::{Cid, PeerId};

pub(super) enum Fetched {
    Node(Box<Node>),
    /// It was merged before.
    Known,
    /// It could not be got.
    Lost(Error),
    /// It is no block of a DAG like ours.
    Broken(Error),
}

/// What somebody looked up in the ledger.
pub(super) enum Looked {
    Processed(Vec<(Digest, bool)>),
    Unfold(Digest, Fetched),
    Failed(Vec<Digest>, Error),
}

impl Walker {
    pub(super) fn fetch(&mut self, Ask { block, checked, hint }: Ask) {
        let (ledger, exchange) = (self.cx.ledger.clone(), self.cx.exchange.clone());
        let (abort, registration) = AbortHandle::new_pair();
        self.fetching.insert(block, abort);
        let fetch = Abortable::new(fetch(ledger, exchange, block, checked, hint), registration);
        self.fetches.push(async move { (block, fetch.await.ok()) }.boxed());
    }

    pub(super) fn look_up(&mut self, blocks: Vec<Digest>) {
        if blocks.is_empty() {
            return;
        }
        let ledger = self.cx.ledger.clone();
        let look = async move {
            let cids: Vec<Cid> = blocks.iter().map(block_cid).collect();
            match ledger.is_processed(&cids).await {
                Ok(processed) => Looked::Processed(blocks.into_iter().zip(processed).collect()),
                Err(error) => Looked::Failed(blocks, error),
            }
        };
        let mut look = look.boxed();
        // What is known at once can be asked for at once.
        match (&mut look).now_or_never() {
            Some(Looked::Processed(blocks)) => self.processed(blocks),
            Some(failed) => self.looks.push(std::future::ready(failed).boxed()),
            None => self.looks.push(look),
        }
    }

    pub(super) fn processed(&mut self, blocks: Vec<(Digest, bool)>) {
        let is_new = |(_, processed): &(Digest, bool)| !processed;
        let heads = if blocks.iter().all(is_new) { BTreeSet::new() } else { self.heads() };
        for (block, processed) in blocks {
            self.frontier.checked(&block, processed, heads.contains(&block));
        }
    }

    pub(super) fn unfold(&mut self, block: Digest) {
        let (ledger, exchange) = (self.cx.ledger.clone(), self.cx.exchange.clone());
        let look = async move {
            let cid = block_cid(&block);
            let ours = ledger.block(&cid).await;
            let fetched = match ours {
                Ok(Some(data)) => parse(cid, data),
                // Caught up without it.
                Ok(None) => fetch(ledger, exchange, block, true, None).await,
                Err(error) => Fetched::Lost(error),
            };
            Looked::Unfold(block, fetched)
        };
        self.looks.push(look.boxed());
    }

    pub(super) async fn looked(&mut self, looked: Looked) -> Result<()> {
        match looked {
            Looked::Processed(blocks) => self.processed(blocks),
            Looked::Unfold(block, fetched) => match fetched {
                Fetched::Node(node) => {
                    let parked = &self.parked;
                    let check = self.frontier.unfolded(&node, |tip| parked.contains_key(tip));
                    self.look_up(check);
                }
                Fetched::Known => {}
                Fetched::Lost(error) if error.kind() == ErrorKind::ShutDown => return Err(error),
                Fetched::Lost(error) | Fetched::Broken(error) => {
                    for walk in self.frontier.owners(&block) {
                        self.give_up(walk, Ended::Missing, &error.to_string()).await?;
                    }
                }
            },
            Looked::Failed(_, error) if error.kind() == ErrorKind::ShutDown => return Err(error),
            Looked::Failed(blocks, error) => {
                for walk in
                    blocks.iter().flat_map(|block| self.frontier.owners(block)).collect::<BTreeSet<_>>()
                {
                    self.give_up(walk, Ended::Missing, &error.to_string()).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn heads(&self) -> BTreeSet<Digest> {
        self.cx.ledger.heads().iter().filter_map(|head| block_digest(&head.cid)).collect()
    }

    pub(super) async fn fetched(&mut self, block: Digest, fetched: Option<Fetched>) -> Result<()> {
        // None: nobody needs it any more, or again on another account.
        let Some(fetched) = fetched else { return Ok(()) };
        self.fetching.remove(&block);
        match fetched {
            Fetched::Known => {
                let is_head = self.heads().contains(&block);
                self.frontier.checked(&block, true, is_head);
            }
            Fetched::Node(node) => {
                let parked = &self.parked;
                let arrival =
                    self.frontier.arrived(&block, &node, |tip| parked.contains_key(tip), Instant::now());
                if arrival.wanted {
                    let bytes = node.block.len();
                    self.block_bytes = bytes.max(self.block_bytes - self.block_bytes / 16);
                    self.ready_bytes += bytes;
                    self.ready_since.get_or_insert_with(Instant::now);
                    self.ready.push_back(*node);
                }
                self.look_up(arrival.check);
                for (walk, why) in arrival.failed {
                    self.give_up(walk, Ended::Broken, &why).await?;
                }
            }
            Fetched::Lost(error) if error.kind() == ErrorKind::ShutDown => return Err(error),
            Fetched::Lost(error) => {
                for walk in self.frontier.owners(&block) {
                    self.give_up(walk, Ended::Missing, &error.to_string()).await?;
                }
            }
            Fetched::Broken(error) => {
                for walk in self.frontier.owners(&block) {
                    self.give_up(walk, Ended::Broken, &error.to_string()).await?;
                }
            }
        }
        Ok(())
    }
}

/// Gets and reads a block. Unless it is known not to be merged, that is looked up meanwhile.
async fn fetch(
    ledger: Arc<dyn Ledger>,
    exchange: Arc<dyn BlockExchange>,
    block: Digest,
    checked: bool,
    hint: Option<PeerId>,
) -> Fetched {
    let cid = block_cid(&block);
    let cids = [cid];
    // What is not merged is not here either.
    let got = if checked {
        exchange.fetch(&cid, hint).await
    } else {
        let get = exchange.get(&cid, hint);
        match select(ledger.is_processed(&cids), get).await {
            Either::Left((Ok(processed), get)) if processed != [true] => get.await,
            Either::Left((Ok(_), _)) => return Fetched::Known,
            Either::Left((Err(error), _)) => Err(error),
            Either::Right((got, look)) => match look.await {
                Ok(processed) if processed == [true] => return Fetched::Known,
                Ok(_) => got,
                Err(error) => Err(error),
            },
        }
    };
    match got {
        Ok(block) => parse(cid, block.data),
        Err(error) => Fetched::Lost(error),
    }
}

fn parse(cid: Cid, data: bytes::Bytes) -> Fetched {
    debug_assert!(data.len() <= 2 * BLOCK_BYTES_MAX, "an exchange bounds its blocks");
    Node::parse(cid, data).map_or_else(Fetched::Broken, |node| Fetched::Node(Box::new(node)))
}
