//! The heads, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::ledger::Head;
use crate::types::Cid;

/// The heads as they are on disk. A handle: clones see the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads(Arc<RwLock<Vec<Head>>>);

impl Heads {
    /// Heads in ascending order.
    pub(super) fn list(&self) -> Vec<Head> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These are the heads now.
    pub(super) fn set(&self, heads: &BTreeMap<Cid, u64>) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = list.len() == heads.len()
            && list.iter().zip(heads).all(|(head, (cid, height))| head.cid == *cid && head.height == *height);
        if !is_same {
            *list = heads.iter().map(|(cid, height)| Head { cid: *cid, height: *height }).collect();
        }
    }
}
