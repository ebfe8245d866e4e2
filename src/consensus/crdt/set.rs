//! What is known of one pin: a pure function of the elements and tombstones that were merged, in whatever order.
//!
//! An element is live unless a tombstone names it. The value of a pin is that of the live element with the greatest
//! (priority, value bytes); without a live element there is no pin. Elements that a tombstone names need not be
//! remembered: they cannot come back.

use bytes::Bytes;

use super::wire::{corrupt, put_varint, read_varint};
use crate::error::Result;
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};

/// The byte in front of the record.
const FORMAT: u8 = 1;
/// The same where the pinset has the value that counts, byte for byte.
const FORMAT_EXACT: u8 = 2;

/// What stands for a block in this store.
pub(super) type Number = u64;

/// An element that no tombstone names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Live {
    /// The block that added it.
    pub(super) number: Number,
    /// The height of that block.
    pub(super) priority: u64,
}

/// The elements and tombstones of one pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// The first is the one whose value counts, once settled; the others ascend.
    live: Vec<Live>,
    /// Ascending.
    tombstones: Vec<Number>,
    /// The pinset has the value of the first live element, byte for byte.
    is_exact: bool,
}

impl Elements {
    /// Reads a record.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn decode(record: &[u8]) -> Result<Self> {
        let broken = || corrupt("the record of a pin's elements is unreadable");
        let (format @ &(FORMAT | FORMAT_EXACT), mut rest) = record.split_first().ok_or_else(broken)? else {
            return Err(corrupt(
                "the record of a pin's elements was written by a newer program; run that one",
            ));
        };
        let mut number = || -> Result<Option<u64>> {
            if rest.is_empty() {
                return Ok(None);
            }
            let (value, after) = read_varint(rest).ok_or_else(broken)?;
            rest = after;
            Ok(Some(value))
        };
        let count = number()?.ok_or_else(broken)?;
        // Two bytes each, at least.
        if count > record.len() as u64 / 2 {
            return Err(broken());
        }
        let mut live = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (Some(number), Some(priority)) = (number()?, number()?) else { return Err(broken()) };
            live.push(Live { number, priority });
        }
        let mut tombstones = Vec::new();
        let mut last = 0u64;
        while let Some(gap) = number()? {
            last = last.checked_add(gap).ok_or_else(broken)?;
            tombstones.push(last);
        }
        let is_exact = *format == FORMAT_EXACT && !live.is_empty();
        Ok(Self { live, tombstones, is_exact })
    }

    /// The record. Tombstones are written as the gaps between them, most of which take one byte.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(2 + self.live.len() * 6 + self.tombstones.len() * 2);
        record.push(if self.is_exact { FORMAT_EXACT } else { FORMAT });
        put_varint(&mut record, self.live.len() as u64);
        for live in &self.live {
            put_varint(&mut record, live.number);
            put_varint(&mut record, live.priority);
        }
        let mut last = 0;
        for &number in &self.tombstones {
            put_varint(&mut record, number - last);
            last = number;
        }
        record
    }

    /// Live elements, the one whose value counts first.
    pub(super) fn live(&self) -> &[Live] {
        &self.live
    }

    /// The element whose value the pinset has, byte for byte, if it has one.
    pub(super) fn exact(&self) -> Option<Number> {
        self.live.first().filter(|_| self.is_exact).map(|live| live.number)
    }

    /// Whether the pinset has the value of the first live element, byte for byte.
    pub(super) fn set_exact(&mut self, is_exact: bool) {
        self.is_exact = is_exact && !self.live.is_empty();
    }

    /// Blocks whose elements are gone, ascending.
    pub(super) fn tombstones(&self) -> &[Number] {
        &self.tombstones
    }

    /// The element whose value counts, once settled.
    pub(super) fn winner(&self) -> Option<Number> {
        self.live.first().map(|live| live.number)
    }

    /// The greatest priority of a live element; 0 without one.
    pub(super) fn top_priority(&self) -> u64 {
        self.live.iter().map(|live| live.priority).max().unwrap_or(0)
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.tombstones.is_empty()
    }

    /// An element was merged. Whether that changes anything.
    pub(super) fn add(&mut self, element: Live) -> bool {
        let is_known = self.tombstones.binary_search(&element.number).is_ok()
            || self.live.iter().any(|live| live.number == element.number);
        if !is_known {
            self.live.push(element);
        }
        !is_known
    }

    /// A tombstone was merged. Whether that changes anything.
    pub(super) fn bury(&mut self, number: Number) -> bool {
        let Err(place) = self.tombstones.binary_search(&number) else { return false };
        self.tombstones.insert(place, number);
        self.live.retain(|live| live.number != number);
        true
    }

    /// Puts the element whose value counts first. Values are asked for only where priorities do not decide. Of equal
    /// values the one that counted before goes on.
    ///
    /// # Errors
    /// Those of `value`.
    pub(super) fn settle(
        &mut self,
        before: Option<Number>,
        mut value: impl FnMut(Number) -> Result<Bytes>,
    ) -> Result<()> {
        let top = self.top_priority();
        let mut contenders: Vec<Number> =
            self.live.iter().filter(|live| live.priority == top).map(|live| live.number).collect();
        // The one before first, because of equal values the first stays.
        contenders.sort_unstable_by_key(|number| (Some(*number) != before, *number));
        let winner = match contenders.as_slice() {
            [] => return Ok(()),
            [only] => *only,
            #[cfg(feature = "testing")]
            [first, others @ ..] if is_planted(Planted::LastArrivalWins) => {
                others.iter().fold(*first, |last, other| last.max(*other))
            }
            [first, others @ ..] => {
                let mut best = (*first, value(*first)?);
                for &other in others {
                    let challenger = value(other)?;
                    if challenger > best.1 {
                        best = (other, challenger);
                    }
                }
                best.0
            }
        };
        self.live.sort_unstable_by_key(|live| (live.number != winner, *live));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors;
    use super::*;

    const WORDS: [&str; 4] = ["a", "ab", "b", ""];

    /// What one block does to the pin.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(Live),
        Bury(Number),
    }

    fn value(number: Number) -> Bytes {
        Bytes::from_static(WORDS[number as usize % WORDS.len()].as_bytes())
    }

    fn after(steps: &[Step]) -> Elements {
        let mut elements = Elements::default();
        for step in steps {
            let before = elements.winner();
            match step {
                Step::Add(live) => drop(elements.add(*live)),
                Step::Bury(number) => drop(elements.bury(*number)),
            }
            elements.settle(before, |number| Ok(value(number))).unwrap();
            // On disk between any two.
            elements = Elements::decode(&elements.encode()).unwrap();
        }
        elements
    }

    /// The definition, word for word.
    fn defined(steps: &[Step]) -> (Vec<Live>, Vec<Number>, Option<(u64, Bytes)>) {
        let mut tombstones: Vec<Number> = steps
            .iter()
            .filter_map(|step| if let Step::Bury(number) = step { Some(*number) } else { None })
            .collect();
        tombstones.sort_unstable();
        tombstones.dedup();
        let mut live: Vec<Live> = steps
            .iter()
            .filter_map(|step| if let Step::Add(live) = step { Some(*live) } else { None })
            .filter(|live| !tombstones.contains(&live.number))
            .collect();
        live.sort_unstable();
        live.dedup();
        let best = live.iter().map(|live| (live.priority, value(live.number))).max();
        (live, tombstones, best)
    }

    fn seen(elements: &Elements) -> (Vec<Live>, Vec<Number>, Option<(u64, Bytes)>) {
        let mut live = elements.live().to_vec();
        live.sort_unstable();
        let best = elements.live().first().map(|live| (live.priority, value(live.number)));
        (live, elements.tombstones().to_vec(), best)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // A block has one height.
        let add = (0..8u64).prop_map(|number| Step::Add(Live { number, priority: 1 + number / 3 }));
        let bury = (0..8u64).prop_map(Step::Bury);
        proptest::collection::vec(prop_oneof![2 => add, 1 => bury], 0..12)
    }

    proptest! {
        #[test]
        fn the_order_of_merging_never_matters(
            (steps, shuffled) in steps().prop_flat_map(|steps| (Just(steps.clone()), Just(steps).prop_shuffle())),
        ) {
            let expected = defined(&steps);
            prop_assert_eq!(seen(&after(&steps)), expected.clone());
            prop_assert_eq!(seen(&after(&shuffled)), expected.clone());
            // Nor how often.
            let twice: Vec<Step> = steps.iter().chain(&shuffled).copied().collect();
            prop_assert_eq!(seen(&after(&twice)), expected);
        }
    }

    #[test]
    fn every_order_of_a_few_steps_gives_the_same() {
        let live = |number, priority| Step::Add(Live { number, priority });
        // A tie, a tombstone of one of them before or after it, and one of a block that never comes.
        let steps = [live(0, 2), live(1, 2), live(2, 1), Step::Bury(1), Step::Bury(9)];
        let expected = defined(&steps);
        let mut orders = 0;
        permute(&mut steps.to_vec(), 0, &mut |steps| {
            assert_eq!(seen(&after(steps)), expected, "{steps:?}");
            orders += 1;
        });
        assert_eq!(orders, 120);
        assert_eq!(expected.2, Some((2, value(0))));
    }

    fn permute(steps: &mut Vec<Step>, from: usize, look: &mut impl FnMut(&[Step])) {
        if from == steps.len() {
            return look(steps);
        }
        for place in from..steps.len() {
            steps.swap(from, place);
            permute(steps, from + 1, look);
            steps.swap(from, place);
        }
    }

    #[test]
    fn values_are_compared_only_where_priorities_do_not_decide() {
        let mut elements = Elements::default();
        for number in 1..=5 {
            elements.add(Live { number, priority: number });
        }
        elements.settle(None, |number| panic!("{number}")).unwrap();
        assert_eq!(elements.winner(), Some(5));
    }

    #[test]
    fn of_equal_values_the_one_before_goes_on() {
        let mut elements = Elements::default();
        elements.add(Live { number: 7, priority: 1 });
        elements.settle(None, |_| Ok(Bytes::new())).unwrap();
        elements.add(Live { number: 3, priority: 1 });
        elements.settle(Some(7), |_| Ok(Bytes::new())).unwrap();
        assert_eq!(elements.winner(), Some(7));
    }

    #[test]
    fn a_record_of_one_element_takes_few_bytes() {
        let mut elements = Elements::default();
        elements.add(Live { number: 2_000, priority: 2_000 });
        assert_eq!(elements.encode().len(), 6);
    }

    #[test]
    fn mutated_records_are_read_or_refused() {
        let records = [&[][..], &[1], &[1, 2, 3], &[7, 300, 40_000, 41_000]].map(|numbers| {
            let mut elements = Elements::default();
            for &number in numbers {
                elements.add(Live { number, priority: number });
                elements.bury(number * 2 + 1);
            }
            elements.encode()
        });
        vectors::mutate_bytes(records.into(), |bytes| {
            if let Ok(elements) = Elements::decode(&bytes) {
                assert!(elements.live.len() + elements.tombstones.len() <= bytes.len());
            }
        });
    }
}
