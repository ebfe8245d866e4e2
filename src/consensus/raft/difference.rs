//! What a pinset that comes as a whole changes: a peer that was away has to let go of what it does not hold any more, and
//! who is only told to compare cannot know what that was.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::wire::corrupt;
use crate::consensus::StateEvent;
use crate::error::Result;
use crate::state::{State, decode_pin_protobuf};
use crate::storage::{KeyRange, Snapshot};
use crate::types::{Cid, Pin};

/// Entries of the old pinset read at a time.
const PAGE: usize = 512;

/// Compares the old pinset with the new one, which comes in order of the CIDs.
pub(super) struct Difference {
    state: Arc<dyn State>,
    view: Arc<dyn Snapshot>,
    /// What is still to be read of the old one; none when that is nothing.
    rest: Option<KeyRange>,
    page: VecDeque<(Bytes, Bytes)>,
    /// None when there are more than are told one by one.
    events: Option<Vec<StateEvent>>,
    events_max: usize,
}

impl Difference {
    /// Of the pinset that a view shows. More changes than that are told as one: compare.
    pub(super) fn new(state: Arc<dyn State>, view: Arc<dyn Snapshot>, events_max: usize) -> Self {
        let (rest, page) = (Some(KeyRange::all()), VecDeque::new());
        Self { state, view, rest, page, events: Some(Vec::new()), events_max }
    }

    fn fill(&mut self) -> Result<()> {
        while self.page.is_empty()
            && let Some(range) = self.rest.take()
        {
            let page = self.state.values(&*self.view, range.clone(), PAGE)?;
            if let Some((last, _)) = page.entries.last().filter(|_| page.more) {
                self.rest = Some(range.after(last.clone()));
            }
            self.page = page.entries.into();
        }
        Ok(())
    }

    fn tell(&mut self, event: StateEvent) {
        let Some(events) = &mut self.events else { return };
        if events.len() < self.events_max {
            events.push(event);
        } else {
            self.events = None;
        }
    }

    fn gone(&mut self, key: &Bytes, value: &Bytes) -> Result<()> {
        let cid = Cid::try_from(&key[..])
            .map_err(|source| corrupt("a key of the pinset is no cid").with_source(source))?;
        let pin = decode_pin_protobuf(&cid, value)?;
        self.tell(StateEvent::Unpinned(Arc::new(pin)));
        Ok(())
    }

    /// The next entry of the new pinset.
    pub(super) fn next(&mut self, key: &Bytes, value: &Bytes, pin: &Pin) -> Result<()> {
        while self.events.is_some() {
            self.fill()?;
            match self.page.front() {
                Some((old, _)) if old < key => {
                    if let Some((key, value)) = self.page.pop_front() {
                        self.gone(&key, &value)?;
                    }
                }
                Some((old, before)) if old == key => {
                    let is_same = before == value;
                    self.page.pop_front();
                    if !is_same {
                        self.tell(StateEvent::Pinned(Arc::new(pin.clone())));
                    }
                    break;
                }
                _ => {
                    self.tell(StateEvent::Pinned(Arc::new(pin.clone())));
                    break;
                }
            }
        }
        Ok(())
    }

    /// There are no more entries in the new one.
    pub(super) fn end(&mut self) -> Result<()> {
        while self.events.is_some() {
            self.fill()?;
            let Some((key, value)) = self.page.pop_front() else { break };
            self.gone(&key, &value)?;
        }
        Ok(())
    }

    /// What to tell.
    pub(super) fn into_events(self) -> Vec<StateEvent> {
        self.events.unwrap_or_else(|| vec![StateEvent::Resync])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::{StoreState, encode_pin_protobuf};
    use crate::storage::{Batch, MemoryStorage, Storage};
    use crate::testing::state_suite::{cid, pin};
    use crate::types::PinOperation;

    async fn told(before: &[Pin], after: &[Pin], events_max: usize) -> Vec<String> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
        let pins = before.iter().map(|pin| PinOperation::Pin(Arc::new(pin.clone()))).collect();
        state.apply(pins, Batch::new()).await.unwrap();
        let mut difference = Difference::new(state, storage.snapshot().unwrap(), events_max);
        let after: BTreeMap<Vec<u8>, &Pin> = after.iter().map(|pin| (pin.cid.to_bytes(), pin)).collect();
        for (key, pin) in after {
            difference.next(&key.into(), &encode_pin_protobuf(pin).into(), pin).unwrap();
        }
        difference.end().unwrap();
        let shown = |event| match event {
            StateEvent::Pinned(pin) => format!("{} is {}", pin.cid, pin.options.name),
            StateEvent::Unpinned(pin) => format!("{} was {}", pin.cid, pin.options.name),
            StateEvent::Resync => "compare".to_owned(),
        };
        let mut told: Vec<String> = difference.into_events().into_iter().map(shown).collect();
        told.sort();
        told
    }

    fn named(number: u64, name: &str) -> Pin {
        let mut pin = pin(number);
        pin.options.name = name.to_owned();
        pin
    }

    #[tokio::test]
    async fn what_comes_goes_and_changes_is_told_and_nothing_else() {
        let before = [named(1, "stays"), named(2, "goes"), named(3, "old"), named(4, "goes too")];
        let after = [named(1, "stays"), named(3, "new"), named(5, "comes")];
        let mut expected = vec![
            format!("{} was goes", cid(2)),
            format!("{} is new", cid(3)),
            format!("{} was goes too", cid(4)),
            format!("{} is comes", cid(5)),
        ];
        expected.sort();
        assert_eq!(told(&before, &after, 4).await, expected);
        assert_eq!(told(&before, &after, 3).await, ["compare"]);
        assert!(told(&before, &before, 3).await.is_empty());
        assert_eq!(told(&before, &[], 4).await.len(), 4);
        assert_eq!(told(&[], &after, 4).await.len(), 3);
    }

    #[tokio::test]
    async fn pinsets_of_many_pages_are_compared() {
        let many: Vec<Pin> = (0..3 * PAGE as u64 + 7).map(|number| named(number, "same")).collect();
        let (one_less, one_more) = (&many[1..], [&many[..], &[named(9_999, "more")]].concat());
        assert!(told(&many, &many, 9).await.is_empty());
        assert_eq!(told(&many, one_less, 9).await, [format!("{} was same", cid(0))]);
        assert_eq!(told(&many, &one_more, 9).await, [format!("{} is more", cid(9_999))]);
    }
}
