//! Who takes the blocks, who has them all, and what is done about those who failed. Pure.

use crate::types::PeerId;

/// Most destinations that take the place of others in one add: each that hangs costs its time.
const REPLACEMENTS_MAX: usize = 16;

/// How it stands with one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Takes blocks.
    Taking,
    /// Has stored what it was given.
    Stored,
    /// Failed, or stalled.
    Failed,
}

/// One of the places that the content is to have, and who has it.
#[derive(Clone, Debug)]
struct Place {
    peer: PeerId,
    /// Gets every block from us. Who came later gets the rest from the daemons of others when it pins.
    whole: bool,
    standing: Standing,
}

/// What is to be done now that a destination failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the others go on.
    GoOn,
    /// Somebody else may take its place: look for a candidate and say so to [`Plan::replace`].
    Replace,
    /// Nobody has everything, nor will.
    GiveUp,
}

/// The destinations of one DAG.
///
/// The one rule: in the end at least one of them must have got every block from us, because the uploaded content is
/// gone. The daemons of the others get what they lack from it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    places: Vec<Place>,
    /// Fewest places that a pin must have; with fewer that work, some stay with those who failed.
    min: usize,
    replacements_left: usize,
    /// Everybody who ever had a place.
    tried: Vec<PeerId>,
}

impl Plan {
    /// Of destinations that shall get everything from us, or what is missing of it where they say that they are not whole.
    pub(super) fn new(
        destinations: impl IntoIterator<Item = (PeerId, bool)>,
        min: usize,
        replaceable: bool,
    ) -> Self {
        let place = |(peer, whole)| Place { peer, whole, standing: Standing::Taking };
        let places: Vec<Place> = destinations.into_iter().map(place).collect();
        Self {
            tried: places.iter().map(|place| place.peer).collect(),
            places,
            min,
            replacements_left: if replaceable { REPLACEMENTS_MAX } else { 0 },
        }
    }

    /// Somebody takes a place that nobody has, without the beginning.
    pub(super) fn join(&mut self, peer: PeerId) {
        self.places.push(Place { peer, whole: false, standing: Standing::Taking });
        self.tried.push(peer);
    }

    /// Who stored what it was given, and whether it got every block.
    pub(super) fn who_stored(&self) -> impl Iterator<Item = (PeerId, bool)> {
        let stored = self.places.iter().filter(|place| place.standing == Standing::Stored);
        stored.map(|place| (place.peer, place.whole))
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// A destination stored what it was given.
    pub(super) fn stored(&mut self, peer: &PeerId) {
        self.set(peer, Standing::Stored);
    }

    /// A destination failed. `from_start` says whether another one could still be given every block.
    pub(super) fn failed(&mut self, peer: &PeerId, from_start: bool) -> Next {
        self.set(peer, Standing::Failed);
        let others = self.has_whole();
        match (others || from_start, self.replacements_left > 0) {
            (false, _) => Next::GiveUp,
            (true, true) => Next::Replace,
            (true, false) if others => Next::GoOn,
            (true, false) => Next::GiveUp,
        }
    }

    /// Somebody takes the place of one who failed, or there is nobody.
    pub(super) fn replace(&mut self, failed: &PeerId, by: Option<PeerId>, from_start: bool) -> Next {
        let place = self.places.iter_mut().find(|place| place.peer == *failed);
        if let (Some(place), Some(peer)) = (place, by) {
            *place = Place { peer, whole: from_start, standing: Standing::Taking };
            self.replacements_left = self.replacements_left.saturating_sub(1);
            self.tried.push(peer);
        }
        if self.has_whole() { Next::GoOn } else { Next::GiveUp }
    }

    /// Everybody who has or had a place.
    pub(super) fn tried(&self) -> &[PeerId] {
        &self.tried
    }

    /// Everybody who failed, replaced or not.
    pub(super) fn all_failed(&self) -> Vec<PeerId> {
        let works = |peer: &PeerId| {
            self.places.iter().any(|place| place.peer == *peer && place.standing != Standing::Failed)
        };
        self.tried.iter().filter(|peer| !works(peer)).copied().collect()
    }

    /// Whether somebody stored every block.
    pub(super) fn is_stored(&self) -> bool {
        self.places.iter().any(|place| place.whole && place.standing == Standing::Stored)
    }

    /// Who is to pin: those that did not fail, in the order of their places. Where that is too few, also some who
    /// failed: they pin when they are back, and until then everybody sees that they do not.
    pub(super) fn allocations(&self) -> Vec<PeerId> {
        let (failed, good): (Vec<_>, Vec<_>) =
            self.places.iter().partition(|place| place.standing == Standing::Failed);
        let missing = self.min.saturating_sub(good.len());
        good.into_iter().chain(failed.into_iter().take(missing)).map(|place| place.peer).collect()
    }

    fn has_whole(&self) -> bool {
        self.places.iter().any(|place| place.whole && place.standing != Standing::Failed)
    }

    fn set(&mut self, peer: &PeerId, standing: Standing) {
        if let Some(place) = self.places.iter_mut().find(|place| place.peer == *peer) {
            place.standing = standing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[0, 1, number]).unwrap()
    }

    fn peers(numbers: &[u8]) -> Vec<PeerId> {
        numbers.iter().copied().map(peer).collect()
    }

    fn whole(numbers: &[u8]) -> Vec<(PeerId, bool)> {
        peers(numbers).into_iter().map(|peer| (peer, true)).collect()
    }

    /// What happens to a plan, in the order of the rows below.
    enum Step {
        Stored(u8),
        /// Who fails, whether everything sent is still at hand, and what follows.
        Failed(u8, bool, Next),
        /// Who is replaced, by whom, whether everything sent is still at hand, and what follows.
        Replaced(u8, Option<u8>, bool, Next),
    }
    use Next::{GiveUp, GoOn, Replace};
    use Step::{Failed, Replaced, Stored};

    struct Row {
        case: &'static str,
        destinations: &'static [u8],
        min: usize,
        replaceable: bool,
        steps: &'static [Step],
        allocations: &'static [u8],
        stored: bool,
    }

    const ROWS: &[Row] = &[
        Row {
            case: "all is well",
            destinations: &[2, 1],
            min: 1,
            replaceable: true,
            steps: &[Stored(1), Stored(2)],
            allocations: &[2, 1],
            stored: true,
        },
        Row {
            case: "one fails late and is replaced: it gets the rest when it pins",
            destinations: &[1, 2],
            min: 2,
            replaceable: true,
            steps: &[Failed(1, false, Replace), Replaced(1, Some(3), false, GoOn), Stored(3), Stored(2)],
            allocations: &[3, 2],
            stored: true,
        },
        Row {
            case: "only the replacement of a late failure is left: nobody has the beginning",
            destinations: &[1, 2],
            min: 2,
            replaceable: true,
            steps: &[
                Failed(1, false, Replace),
                Replaced(1, Some(3), false, GoOn),
                Stored(3),
                Failed(2, false, GiveUp),
            ],
            allocations: &[3, 2],
            stored: false,
        },
        Row {
            case: "the only one fails while everything is at hand",
            destinations: &[1],
            min: 1,
            replaceable: true,
            steps: &[Failed(1, true, Replace), Replaced(1, Some(2), true, GoOn), Stored(2)],
            allocations: &[2],
            stored: true,
        },
        Row {
            case: "the only one fails, and there is nobody else",
            destinations: &[1],
            min: 1,
            replaceable: true,
            steps: &[Failed(1, true, Replace), Replaced(1, None, true, GiveUp)],
            allocations: &[1],
            stored: false,
        },
        Row {
            case: "the only one fails too late",
            destinations: &[1],
            min: 1,
            replaceable: true,
            steps: &[Failed(1, false, GiveUp)],
            allocations: &[1],
            stored: false,
        },
        Row {
            case: "nobody is left to replace one of three, two are enough",
            destinations: &[1, 2, 3],
            min: 2,
            replaceable: true,
            steps: &[Failed(2, false, Replace), Replaced(2, None, false, GoOn), Stored(1), Stored(3)],
            allocations: &[1, 3],
            stored: true,
        },
        Row {
            case: "nobody is left, and three are needed: it pins when it is back",
            destinations: &[1, 2, 3],
            min: 3,
            replaceable: true,
            steps: &[Failed(1, false, Replace), Replaced(1, None, false, GoOn), Stored(2), Stored(3)],
            allocations: &[2, 3, 1],
            stored: true,
        },
        Row {
            case: "everywhere: nobody is replaced, one is enough",
            destinations: &[1, 2],
            min: 1,
            replaceable: false,
            steps: &[Failed(2, true, GoOn), Stored(1)],
            allocations: &[1],
            stored: true,
        },
        Row {
            case: "everywhere: all fail",
            destinations: &[1, 2],
            min: 1,
            replaceable: false,
            steps: &[Failed(2, true, GoOn), Failed(1, true, GiveUp)],
            allocations: &[1],
            stored: false,
        },
        Row {
            case: "it fails in the end, when another one has stored all",
            destinations: &[1, 2],
            min: 1,
            replaceable: true,
            steps: &[Stored(2), Failed(1, false, Replace), Replaced(1, Some(4), false, GoOn), Stored(4)],
            allocations: &[4, 2],
            stored: true,
        },
        Row {
            case: "a replacement fails too",
            destinations: &[1, 2],
            min: 2,
            replaceable: true,
            steps: &[
                Failed(1, true, Replace),
                Replaced(1, Some(3), true, GoOn),
                Failed(3, true, Replace),
                Replaced(3, Some(4), true, GoOn),
                Stored(4),
                Failed(2, false, Replace),
                Replaced(2, None, false, GoOn),
            ],
            allocations: &[4, 2],
            stored: true,
        },
    ];

    #[test]
    fn each_course_of_an_add_ends_as_it_must() {
        for row in ROWS {
            let mut plan = Plan::new(whole(row.destinations), row.min, row.replaceable);
            for (index, step) in row.steps.iter().enumerate() {
                let at = format!("{}, step {index}", row.case);
                match *step {
                    Stored(one) => plan.stored(&peer(one)),
                    Failed(one, from_start, next) => {
                        assert_eq!(plan.failed(&peer(one), from_start), next, "{at}");
                    }
                    Replaced(one, by, from_start, next) => {
                        assert_eq!(plan.replace(&peer(one), by.map(peer), from_start), next, "{at}");
                    }
                }
            }
            assert_eq!(plan.allocations(), peers(row.allocations), "{}", row.case);
            assert_eq!(plan.is_stored(), row.stored, "{}", row.case);
        }
    }

    #[test]
    fn who_joins_a_rest_lacks_the_beginning() {
        let mut plan = Plan::new([(peer(0), true), (peer(1), false)], 3, true);
        plan.join(peer(2));
        assert_eq!((plan.places(), plan.tried().len()), (3, 3));
        plan.stored(&peer(1));
        plan.stored(&peer(2));
        assert!(!plan.is_stored());
        assert_eq!(plan.failed(&peer(0), false), Next::GiveUp, "nobody else has the beginning");
        let mut plan = Plan::new([(peer(0), true), (peer(1), false)], 2, true);
        assert_eq!(plan.failed(&peer(1), false), Next::Replace);
        assert_eq!(plan.replace(&peer(1), Some(peer(2)), false), Next::GoOn);
        plan.stored(&peer(0));
        plan.stored(&peer(2));
        assert!(plan.is_stored());
        assert_eq!(plan.who_stored().collect::<Vec<_>>(), [(peer(0), true), (peer(2), false)]);
    }

    #[test]
    fn replacing_comes_to_an_end() {
        let mut plan = Plan::new(whole(&[0]), 1, true);
        for number in 0..REPLACEMENTS_MAX as u8 {
            assert_eq!(plan.failed(&peer(number), true), Next::Replace, "{number}");
            assert_eq!(plan.replace(&peer(number), Some(peer(number + 1)), true), Next::GoOn);
        }
        assert_eq!(plan.failed(&peer(REPLACEMENTS_MAX as u8), true), Next::GiveUp);
        assert_eq!(plan.tried().len(), 1 + REPLACEMENTS_MAX);
    }
}
