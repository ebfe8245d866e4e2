use super::*;
use crate::exchange::bitswap::message::EntryKind;

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}

fn cid(number: u32) -> Cid {
    Block::raw(number.to_be_bytes().to_vec()).cid
}

const HAVE: EntryKind = EntryKind::Have { send_dont_have: false };
const BLOCK: EntryKind = EntryKind::Block { send_dont_have: true };
const CANCEL: EntryKind = EntryKind::Cancel;

/// A session of peers 1 to 9 that wants blocks by number.
struct Case {
    wants: Wants,
    session: SessionId,
    now: Instant,
    waiters: Vec<(WaiterId, oneshot::Receiver<Block>)>,
}

impl Case {
    fn new(hint: Option<u8>, connected: &[u8]) -> Self {
        let mut wants = Wants::default();
        let now = Instant::now();
        connected.iter().for_each(|number| wants.connected(peer(*number), now));
        let session = wants.begin(hint.map(peer), false);
        Self { wants, session, now, waiters: Vec::new() }
    }

    /// Wants block 1.
    fn one(hint: Option<u8>, connected: &[u8]) -> Self {
        let mut case = Self::new(hint, connected);
        case.want(1);
        case
    }

    fn want(&mut self, number: u32) {
        let waiter = self.wants.want(self.session, cid(number), self.now);
        self.waiters.push(waiter);
    }

    /// What each peer gets to read, by its number.
    fn sent(&mut self) -> Vec<(u8, EntryKind)> {
        self.sent_about().into_iter().map(|(number, _, kind)| (number, kind)).collect()
    }

    fn sent_about(&mut self) -> Vec<(u8, Cid, EntryKind)> {
        let stirred = self.wants.stirred();
        let mut sent = Vec::new();
        for number in 0..=99 {
            let entries = self.wants.outbox(&peer(number), usize::MAX);
            assert!(entries.is_empty() || stirred.contains(&peer(number)), "nobody would look into {number}");
            sent.extend(entries.into_iter().map(|entry| (number, entry.cid, entry.kind)));
        }
        sent
    }

    fn answered(&mut self, number: u8, has: bool) -> Vec<(u8, EntryKind)> {
        self.wants.answered(peer(number), cid(1), has, self.now);
        self.sent()
    }

    fn lost(&mut self, number: u8) -> Vec<(u8, EntryKind)> {
        self.wants.lost(peer(number), self.now);
        self.sent()
    }

    fn arrived(&mut self, block: u32, from: u8) -> Arrived {
        self.wants.arrived(&cid(block), peer(from), self.now)
    }

    fn after(&mut self, time: Duration) -> Vec<(u8, EntryKind)> {
        self.now += time;
        self.wants.tick(self.now);
        self.sent()
    }
}

#[test]
fn without_a_hint_everybody_is_asked_and_the_first_that_has_it_sends_it() {
    let mut case = Case::one(None, &[1, 2, 3]);
    assert_eq!(case.sent(), [(1, HAVE), (2, HAVE), (3, HAVE)]);
    assert_eq!(case.answered(2, true), [(2, BLOCK)]);
    assert_eq!(case.answered(3, true), [], "one is enough");
    assert!(matches!(case.arrived(1, 2), Arrived::Wanted(waiters) if waiters.len() == 1));
    assert_eq!(case.sent(), [(1, CANCEL), (3, CANCEL)], "who sent it forgets by itself");
    assert!(case.wants.is_idle());
}

#[test]
fn the_hint_is_asked_alone_until_it_has_it_not_or_is_silent() {
    for refused in [true, false] {
        let mut case = Case::one(Some(1), &[1, 2, 3]);
        assert_eq!(case.sent(), [(1, BLOCK)]);
        assert_eq!(case.after(PATIENCE / 2), []);
        let everybody = if refused { case.answered(1, false) } else { case.after(PATIENCE / 2) };
        assert_eq!(everybody, [(2, HAVE), (3, HAVE)]);
        assert_eq!(case.answered(3, true), [(3, BLOCK)]);
    }
}

#[test]
fn the_only_peer_there_is_is_asked_for_the_block_itself() {
    let mut case = Case::one(None, &[1]);
    assert_eq!(case.sent(), [(1, BLOCK)]);
}

#[test]
fn who_has_it_and_does_not_send_it_is_passed_over() {
    let mut case = Case::one(None, &[1, 2, 3]);
    case.sent();
    case.answered(1, true);
    case.answered(2, true);
    assert_eq!(case.lost(1), [(2, BLOCK)], "it is gone");
    assert_eq!(case.answered(3, true), []);
    assert_eq!(case.after(BLOCK_PATIENCE), [(3, BLOCK)], "it is silent");
    assert_eq!(case.answered(3, false), [], "it has it not any more, and all others were asked");
    assert_eq!(case.answered(2, true), [(2, BLOCK)], "whoever says so again is believed");
}

#[test]
fn a_peer_with_much_to_send_is_not_slow_while_it_sends() {
    let mut case = Case::new(Some(1), &[1, 2]);
    (1..=20).for_each(|number| case.want(number));
    case.sent();
    for number in 1..=15 {
        assert_eq!(case.after(PATIENCE / 2 + PATIENCE / 4), [], "{number}");
        assert!(matches!(case.arrived(number, 1), Arrived::Wanted(_)));
    }
    // But a block that it leaves out is asked of others in the end.
    case.now += FETCH_MAX;
    case.wants.arrived(&cid(16), peer(1), case.now);
    case.wants.tick(case.now);
    assert!(case.sent().contains(&(2, HAVE)));
}

#[test]
fn later_wants_of_a_session_go_to_who_had_its_blocks_and_is_least_busy() {
    let mut case = Case::one(None, &[1, 2, 3]);
    case.sent();
    case.answered(1, true);
    case.answered(2, true);
    (2..=5).for_each(|number| case.want(number));
    let blocks = case.sent();
    for number in [1, 2] {
        let count = blocks.iter().filter(|sent| **sent == (number, BLOCK)).count();
        assert_eq!(count, 2, "{number}: {blocks:?}");
    }
    assert_eq!(blocks.len(), 4, "the third was not asked: {blocks:?}");
}

#[test]
fn a_session_of_many_learns_from_one_block_who_else_has_them() {
    let mut case = Case::new(None, &[1, 2, 3]);
    case.session = case.wants.begin(Some(peer(1)), true);
    (1..=4).for_each(|number| case.want(number));
    let sent = case.sent_about();
    let probes: Vec<_> = sent.iter().filter(|(_, _, kind)| *kind == HAVE).collect();
    assert_eq!(probes, [&(2, cid(1), HAVE), &(3, cid(1), HAVE)]);
    assert_eq!(sent.len(), 6, "{sent:?}");
    assert_eq!(case.answered(2, true), [], "the hint is at it");
    case.want(5);
    assert_eq!(case.sent(), [(2, BLOCK)], "with less to do than the hint");
}

#[test]
fn only_a_few_wants_are_asked_of_everybody_until_somebody_has_one() {
    let mut case = Case::new(None, &[1, 2]);
    let many = BROADCAST_WANTS as u32 + 10;
    (1..=many).for_each(|number| case.want(number));
    assert_eq!(case.sent().len(), 2 * BROADCAST_WANTS);
    assert_eq!(case.answered(2, true), [(2, BLOCK); 11], "this one, and those that waited");

    let mut case = Case::new(None, &[1, 2]);
    (1..=many).for_each(|number| case.want(number));
    case.sent();
    assert_eq!(case.after(PATIENCE).len(), 2 * 10, "nobody has any: perhaps they have others");
}

#[test]
fn one_silent_peer_stops_no_session() {
    let mut case = Case::new(Some(1), &[1, 2]);
    (1..=5).for_each(|number| case.want(number));
    assert_eq!(case.sent(), [(1, BLOCK); 5]);
    assert_eq!(case.after(PATIENCE), [(2, HAVE); 5]);
    case.want(6);
    assert_eq!(case.sent(), [(1, HAVE), (2, HAVE)], "the hint is one among all");
}

#[test]
fn everybody_is_asked_again_less_and_less_often() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    case.answered(1, false);
    let mut asked = Vec::new();
    for second in 1..=300 {
        let sent = case.after(Duration::from_secs(1));
        if !sent.is_empty() {
            assert_eq!(sent, [(1, HAVE), (2, HAVE)]);
            asked.push(second);
        }
    }
    assert_eq!(asked, [10, 30, 70, 130, 190, 250]);

    let mut case = Case::one(Some(1), &[1]);
    case.sent();
    case.arrived(2, 1);
    assert_eq!(case.after(ASK_AGAIN_FIRST), [(1, HAVE)], "also when the message with the want was lost");
}

#[test]
fn at_most_so_many_peers_are_asked_at_once_and_others_the_next_time() {
    let all: Vec<u8> = (0..99).collect();
    let mut case = Case::one(None, &all);
    let first: BTreeSet<u8> = case.sent().into_iter().map(|(number, _)| number).collect();
    assert_eq!(first.len(), BROADCAST_PEERS_MAX);
    let all_asked: BTreeSet<u8> = case.after(ASK_AGAIN_FIRST).into_iter().map(|(number, _)| number).collect();
    assert_eq!(all_asked.len(), 99);
}

#[test]
fn who_connects_is_asked_for_what_everybody_is_asked_for() {
    let mut case = Case::one(None, &[]);
    assert_eq!(case.sent(), []);
    case.wants.connected(peer(1), case.now);
    assert_eq!(case.sent(), [(1, HAVE)]);
    case.wants.connected(peer(1), case.now);
    assert_eq!(case.sent(), []);
    case.wants.disconnected(peer(1), case.now);
    case.wants.connected(peer(1), case.now);
    assert_eq!(case.sent(), [(1, HAVE)], "it has forgotten");

    let mut case = Case::one(Some(1), &[1]);
    case.sent();
    case.wants.connected(peer(2), case.now);
    assert_eq!(case.sent(), [], "the hint is at it");
}

#[test]
fn calls_share_a_want_and_the_last_one_takes_it_back() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    case.want(1);
    let other = case.wants.begin(Some(peer(7)), false);
    let last = case.wants.want(other, cid(1), case.now);
    assert_eq!(case.sent(), [(7, EntryKind::Have { send_dont_have: true })], "it may know better");
    for (waiter, _) in std::mem::take(&mut case.waiters) {
        case.wants.drop_waiter(&cid(1), waiter);
    }
    assert_eq!(case.sent(), []);
    case.wants.drop_waiter(&cid(1), last.0);
    assert_eq!(case.sent(), [(1, CANCEL), (2, CANCEL), (7, CANCEL)]);
    assert!(case.wants.is_idle());
    assert!(case.wants.peers.values().all(|peer| peer.in_flight == 0));
}

#[test]
fn who_provides_a_block_is_looked_for_after_a_second_one_block_of_a_session_at_a_time() {
    let mut case = Case::new(Some(1), &[1]);
    (1..=3).for_each(|number| case.want(number));
    case.sent();
    let mut looked_for = Vec::new();
    for _ in 0..3 {
        case.now += Duration::from_secs(1);
        let searches = case.wants.tick(case.now);
        assert_eq!(searches.len(), 1);
        looked_for.extend(searches);
    }
    looked_for.sort();
    let mut all: Vec<Cid> = (1..=3).map(cid).collect();
    all.sort();
    assert_eq!(looked_for, all);
    case.sent();
    case.wants.provides(peer(5), cid(1), case.now);
    case.wants.provides(peer(1), cid(1), case.now);
    assert_eq!(case.sent(), [(5, EntryKind::Have { send_dont_have: true })]);
    case.lost(1);
    case.wants.provides(peer(6), cid(2), case.now);
    assert_eq!(case.sent(), [(6, BLOCK)], "nobody else is at it");
}

#[test]
fn who_sends_what_nobody_asked_for_is_not_asked_for_a_while() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    for number in 1..STRIKES_MAX {
        assert!(matches!(case.arrived(100 + number, 1), Arrived::Unasked));
    }
    assert!(matches!(case.arrived(200, 1), Arrived::Distrusted));
    assert!(!case.wants.listens_to(&peer(1), case.now));
    assert_eq!(case.answered(1, true), [], "it is not believed either");
    assert!(!case.after(ASK_AGAIN_FIRST).contains(&(1, HAVE)));
    case.wants.connected(peer(1), case.now);
    let session = case.wants.begin(Some(peer(1)), false);
    let _other = case.wants.want(session, cid(2), case.now);
    assert_eq!(case.sent(), [(2, BLOCK)], "nor as a hint, nor when it connects anew");
    assert!(case.after(DISTRUST).contains(&(1, HAVE)));
}

#[test]
fn a_block_that_comes_late_is_nobodys_fault() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    case.arrived(1, 1);
    for _ in 0..2 * STRIKES_MAX {
        assert!(matches!(case.arrived(1, 2), Arrived::Late));
    }
    // And a good one makes up for the bad ones before it.
    for number in 10..10 + 3 * STRIKES_MAX {
        assert!(matches!(case.arrived(1_000 + number, 2), Arrived::Unasked));
        case.want(number);
        assert!(matches!(case.arrived(number, 2), Arrived::Wanted(_)));
    }
}

#[test]
fn a_peer_that_does_not_speak_bitswap_is_asked_again_only_after_a_while() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    case.wants.does_not_speak(peer(1), case.now);
    case.want(2);
    assert_eq!(case.sent(), [(2, BLOCK)]);
    assert!(case.after(DEAF).contains(&(1, HAVE)));
}

#[test]
fn what_nobody_asked_a_peer_is_not_believed() {
    let mut case = Case::one(None, &[1, 2]);
    case.sent();
    assert_eq!(case.answered(5, true), []);
    case.wants.answered(peer(1), cid(7), true, case.now);
    assert_eq!(case.sent(), []);
}

#[test]
fn what_is_remembered_of_the_past_is_bounded() {
    let mut case = Case::new(None, &[1, 2]);
    for number in 0..RECENT_MAX as u32 + 100 {
        let (waiter, _) = case.wants.want(case.session, cid(number), case.now);
        case.wants.drop_waiter(&cid(number), waiter);
    }
    assert_eq!((case.wants.recent.order.len(), case.wants.recent.cids.len()), (RECENT_MAX, RECENT_MAX));
    for number in 0..=99 {
        case.wants.does_not_speak(peer(number), case.now);
    }
    case.wants.connected.clear();
    case.after(2 * DEAF);
    assert!(case.wants.peers.is_empty(), "{}", case.wants.peers.len());

    for number in 0..2 * outbox::ENTRIES_MAX as u32 {
        case.wants.connected(peer(1), case.now);
        let (waiter, _) = case.wants.want(case.session, cid(number), case.now);
        case.wants.drop_waiter(&cid(number), waiter);
    }
    assert!(case.sent().len() <= outbox::ENTRIES_MAX + 1);
}
