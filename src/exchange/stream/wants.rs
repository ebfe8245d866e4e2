//! What we want, whom we asked, and whom to ask next. Pure: told what happened and what time it is, it fills the
//! outboxes of peers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::frame::Frame;
use crate::types::{Block, Cid, PeerId};

/// How long a hint may send nothing at all before everybody is asked.
const HINT_PATIENCE: Duration = Duration::from_secs(2);
/// How long any peer may send nothing at all before its blocks are asked of another that has them.
const BLOCK_PATIENCE: Duration = Duration::from_secs(5);
/// When a peer that has not a block is asked again, in case it forgot that we want it.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// When a peer whose stream broke is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a peer that sent a block under a wrong CID is not asked.
const DISTRUST: Duration = Duration::from_secs(600);
/// Peers that are remembered for it; the oldest are forgotten.
const DISTRUSTED_PEERS_MAX: usize = 1_024;
/// Frames that wait for one peer before wants are no longer taken back, which is only a courtesy.
const OUTBOX_FRAMES_MAX: usize = 32_768;

/// One call that waits for a block.
pub(super) type WaiterId = u64;

#[derive(Debug, Default)]
pub(super) struct Wants {
    wants: BTreeMap<Cid, Want>,
    outboxes: BTreeMap<PeerId, BTreeMap<Cid, Ask>>,
    /// Peers whose outbox got something since it was last asked.
    stirred: BTreeSet<PeerId>,
    /// Until when a peer is not asked.
    distrusted: BTreeMap<PeerId, Instant>,
    /// When a peer last sent a block. With many blocks asked of one peer, each takes its time, and that is fine.
    progress: BTreeMap<PeerId, Instant>,
    next_waiter: WaiterId,
}

#[derive(Debug, Default)]
struct Want {
    waiters: BTreeMap<WaiterId, oneshot::Sender<Block>>,
    asked: BTreeMap<PeerId, Asked>,
    /// Who was asked for the block itself, and when.
    fetching: Option<(PeerId, Instant)>,
    /// Only the hint was asked yet.
    hinted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Unanswered,
    Has,
    /// It has it not, and remembers that we want it; asked again at this time, should it have forgotten.
    HasNot(Instant),
    /// Its stream is gone, and all it remembered; asked again at this time.
    Lost(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Have,
    Block,
    Cancel,
}

impl Wants {
    /// Wants a block: of the hint, else of everybody connected.
    pub(super) fn want(
        &mut self,
        cid: Cid,
        hint: Option<PeerId>,
        connected: &[PeerId],
        now: Instant,
    ) -> (WaiterId, oneshot::Receiver<Block>) {
        let (sender, receiver) = oneshot::channel();
        self.next_waiter += 1;
        let hint = hint.filter(|hint| !self.is_distrusted(hint, now));
        let want = self.wants.entry(cid).or_default();
        let is_new = want.waiters.is_empty();
        want.waiters.insert(self.next_waiter, sender);
        match hint {
            Some(hint) if is_new => {
                want.hinted = true;
                self.fetch(cid, hint, now);
            }
            // Somebody waits for it already, and another one knows better.
            Some(hint) if !want.asked.contains_key(&hint) => self.ask(cid, hint),
            None if is_new => self.ask_everybody(cid, connected, now),
            _ => {}
        }
        (self.next_waiter, receiver)
    }

    /// A call is not waiting any more; the last one takes the want back.
    pub(super) fn drop_waiter(&mut self, cid: &Cid, waiter: WaiterId) {
        if let Some(want) = self.wants.get_mut(cid) {
            want.waiters.remove(&waiter);
            if want.waiters.is_empty() {
                self.take_back(cid, None);
            }
        }
    }

    pub(super) fn is_wanted(&self, cid: &Cid) -> bool {
        self.wants.contains_key(cid)
    }

    /// A peer said whether it has a block.
    pub(super) fn answered(&mut self, peer: PeerId, cid: Cid, has: bool, connected: &[PeerId], now: Instant) {
        let Some(want) = self.wants.get_mut(&cid) else { return };
        let Some(asked) = want.asked.get_mut(&peer) else { return };
        if has {
            *asked = Asked::Has;
            self.fetch_from_another(cid, now);
        } else {
            self.has_not(cid, peer, Asked::HasNot(now + ASK_AGAIN), connected, now);
        }
    }

    /// The block is here, from a peer or from our own source: these wait for it.
    pub(super) fn arrived(
        &mut self,
        cid: &Cid,
        from: Option<PeerId>,
        now: Instant,
    ) -> Vec<oneshot::Sender<Block>> {
        if let Some(peer) = from {
            self.progress.insert(peer, now);
        }
        self.take_back(cid, from).map(|want| want.waiters.into_values().collect()).unwrap_or_default()
    }

    /// The stream to a peer broke or could not be opened, which may well be different the next time or not.
    pub(super) fn session_ended(
        &mut self,
        peer: PeerId,
        may_recover: bool,
        connected: &[PeerId],
        now: Instant,
    ) {
        self.outboxes.remove(&peer);
        self.stirred.remove(&peer);
        self.progress.remove(&peer);
        let again = now + if may_recover { RETRY } else { ASK_AGAIN };
        let waiting_for_it = |(cid, want): (&Cid, &Want)| want.asked.contains_key(&peer).then_some(*cid);
        let cids: Vec<Cid> = self.wants.iter().filter_map(waiting_for_it).collect();
        for cid in cids {
            self.has_not(cid, peer, Asked::Lost(again), connected, now);
        }
    }

    /// A peer sent what is not the block it named: it is not asked for a while. Its session has to be ended too.
    pub(super) fn distrust(&mut self, peer: PeerId, now: Instant) {
        self.distrusted.retain(|_, until| *until > now);
        self.distrusted.insert(peer, now + DISTRUST);
        if self.distrusted.len() > DISTRUSTED_PEERS_MAX {
            let oldest = self.distrusted.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.distrusted.remove(&oldest));
        }
    }

    /// A peer connected: it is asked for everything that everybody is asked for.
    pub(super) fn connected(&mut self, peer: PeerId, now: Instant) {
        if self.is_distrusted(&peer, now) {
            return;
        }
        let unknown =
            |want: &Want| matches!(want.asked.get(&peer), None | Some(Asked::HasNot(_) | Asked::Lost(_)));
        let wants = self.wants.iter().filter(|(_, want)| !want.hinted && unknown(want));
        let cids: Vec<Cid> = wants.map(|(cid, _)| *cid).collect();
        for cid in cids {
            self.ask(cid, peer);
        }
    }

    /// Time passed for a want: gives up on hints and slow peers, and asks again.
    pub(super) fn tick(&mut self, cid: Cid, connected: &[PeerId], now: Instant) {
        let Some(want) = self.wants.get(&cid) else { return };
        if !want.hinted || want.fetching.is_none_or(|fetching| self.is_slow(fetching, HINT_PATIENCE, now)) {
            self.ask_everybody(cid, connected, now);
        }
        self.fetch_from_another(cid, now);
    }

    /// Peers whose outbox got something since the last call.
    pub(super) fn stirred(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.stirred)
    }

    /// Takes up to `max` frames out of a peer's outbox.
    pub(super) fn outbox(&mut self, peer: &PeerId, max: usize) -> Vec<Frame> {
        let Some(outbox) = self.outboxes.get_mut(peer) else { return Vec::new() };
        let mut frames = Vec::new();
        while frames.len() < max {
            let Some((cid, ask)) = outbox.pop_first() else { break };
            frames.push(match ask {
                Ask::Have => Frame::WantHave(cid),
                Ask::Block => Frame::WantBlock(cid),
                Ask::Cancel => Frame::Cancel(cid),
            });
        }
        if outbox.is_empty() {
            self.outboxes.remove(peer);
        }
        frames
    }

    /// Whether a stream to this peer is of use: something is to be sent, or remembered there.
    pub(super) fn needs(&self, peer: &PeerId) -> bool {
        let remembered =
            |want: &Want| want.asked.get(peer).is_some_and(|asked| !matches!(asked, Asked::Lost(_)));
        self.outboxes.contains_key(peer) || self.wants.values().any(remembered)
    }

    /// Ends every want: the waiters see their senders dropped.
    pub(super) fn clear(&mut self) {
        *self = Self { next_waiter: self.next_waiter, ..Self::default() };
    }

    fn is_distrusted(&self, peer: &PeerId, now: Instant) -> bool {
        self.distrusted.get(peer).is_some_and(|until| *until > now)
    }

    fn is_slow(&self, (peer, since): (PeerId, Instant), patience: Duration, now: Instant) -> bool {
        let last = self.progress.get(&peer).map_or(since, |progress| since.max(*progress));
        now.saturating_duration_since(last) >= patience
    }

    fn post(&mut self, peer: PeerId, cid: Cid, ask: Ask) {
        let outbox = self.outboxes.entry(peer).or_default();
        if ask == Ask::Cancel && outbox.len() >= OUTBOX_FRAMES_MAX {
            outbox.remove(&cid);
            return;
        }
        outbox.insert(cid, ask);
        self.stirred.insert(peer);
    }

    /// Asks a peer whether it has the block.
    fn ask(&mut self, cid: Cid, peer: PeerId) {
        if let Some(want) = self.wants.get_mut(&cid) {
            want.asked.insert(peer, Asked::Unanswered);
            self.post(peer, cid, Ask::Have);
        }
    }

    /// Asks a peer for the block itself.
    fn fetch(&mut self, cid: Cid, peer: PeerId, now: Instant) {
        if let Some(want) = self.wants.get_mut(&cid) {
            want.asked.entry(peer).or_insert(Asked::Unanswered);
            want.fetching = Some((peer, now));
            self.post(peer, cid, Ask::Block);
        }
    }

    /// Asks everybody who was not asked yet, or not for a while.
    fn ask_everybody(&mut self, cid: Cid, connected: &[PeerId], now: Instant) {
        let Some(want) = self.wants.get_mut(&cid) else { return };
        want.hinted = false;
        let to_ask = |peer: &&PeerId| match want.asked.get(*peer) {
            None => true,
            Some(Asked::HasNot(again) | Asked::Lost(again)) => *again <= now,
            Some(Asked::Unanswered | Asked::Has) => false,
        };
        let peers: Vec<PeerId> = connected.iter().filter(to_ask).copied().collect();
        let peers: Vec<PeerId> = peers.into_iter().filter(|peer| !self.is_distrusted(peer, now)).collect();
        let nobody_else =
            self.wants.get(&cid).is_some_and(|want| want.fetching.is_none() && want.asked.is_empty());
        match peers.as_slice() {
            // The only one there is need not be asked twice.
            [only] if nobody_else => self.fetch(cid, *only, now),
            peers => peers.iter().for_each(|peer| self.ask(cid, *peer)),
        }
    }

    /// Fetches from a peer that has the block, unless one is being fetched from and not slow.
    fn fetch_from_another(&mut self, cid: Cid, now: Instant) {
        let Some(want) = self.wants.get(&cid) else { return };
        if want.fetching.is_some_and(|fetching| !self.is_slow(fetching, BLOCK_PATIENCE, now)) {
            return;
        }
        let slow = want.fetching.map(|(peer, _)| peer);
        let has =
            |(peer, asked): (&PeerId, &Asked)| (*asked == Asked::Has && Some(*peer) != slow).then_some(*peer);
        if let Some(other) = want.asked.iter().find_map(has) {
            self.fetch(cid, other, now);
        }
    }

    fn has_not(&mut self, cid: Cid, peer: PeerId, asked: Asked, connected: &[PeerId], now: Instant) {
        let Some(want) = self.wants.get_mut(&cid) else { return };
        want.asked.insert(peer, asked);
        if want.fetching.is_some_and(|(from, _)| from == peer) {
            want.fetching = None;
        }
        if want.hinted {
            self.ask_everybody(cid, connected, now);
        }
        self.fetch_from_another(cid, now);
    }

    fn take_back(&mut self, cid: &Cid, from: Option<PeerId>) -> Option<Want> {
        let want = self.wants.remove(cid)?;
        for (peer, asked) in &want.asked {
            let forgot = Some(*peer) == from || matches!(asked, Asked::Lost(_));
            if !forgot {
                self.post(*peer, *cid, Ask::Cancel);
            }
        }
        Some(want)
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

    fn cid(number: u32) -> Cid {
        Block::raw(number.to_be_bytes().to_vec()).cid
    }

    /// What each peer gets to read, by its number.
    fn sent(wants: &mut Wants) -> Vec<(u8, Frame)> {
        let stirred = wants.stirred();
        let frames = (0..=9).flat_map(|number| {
            let frames = wants.outbox(&peer(number), usize::MAX);
            assert!(frames.is_empty() || stirred.contains(&peer(number)), "nobody would look into {number}");
            frames.into_iter().map(move |frame| (number, frame))
        });
        frames.collect()
    }

    /// Wants one block, with peers 1 to 3 connected.
    struct Case {
        wants: Wants,
        connected: Vec<PeerId>,
        now: Instant,
        waiter: WaiterId,
        _receiver: oneshot::Receiver<Block>,
    }

    impl Case {
        fn new(hint: Option<u8>, connected: &[u8]) -> Self {
            let (mut wants, connected, now) = (Wants::default(), peers(connected), Instant::now());
            let (waiter, receiver) = wants.want(cid(1), hint.map(peer), &connected, now);
            Self { wants, connected, now, waiter, _receiver: receiver }
        }

        fn sent(&mut self) -> Vec<(u8, Frame)> {
            sent(&mut self.wants)
        }

        fn answered(&mut self, number: u8, has: bool) -> Vec<(u8, Frame)> {
            self.wants.answered(peer(number), cid(1), has, &self.connected, self.now);
            self.sent()
        }

        fn lost(&mut self, number: u8) -> Vec<(u8, Frame)> {
            self.wants.session_ended(peer(number), true, &self.connected, self.now);
            self.sent()
        }

        fn after(&mut self, time: Duration) -> Vec<(u8, Frame)> {
            self.now += time;
            self.wants.tick(cid(1), &self.connected, self.now);
            self.sent()
        }
    }

    fn have(number: u8) -> (u8, Frame) {
        (number, Frame::WantHave(cid(1)))
    }

    fn block(number: u8) -> (u8, Frame) {
        (number, Frame::WantBlock(cid(1)))
    }

    fn cancel(number: u8) -> (u8, Frame) {
        (number, Frame::Cancel(cid(1)))
    }

    const A_MOMENT: Duration = Duration::from_millis(100);

    #[test]
    fn without_a_hint_everybody_is_asked_and_the_first_that_has_it_sends_it() {
        let mut case = Case::new(None, &[1, 2, 3]);
        assert_eq!(case.sent(), [have(1), have(2), have(3)]);
        assert_eq!(case.answered(1, false), []);
        assert_eq!(case.answered(3, true), [block(3)]);
        assert_eq!(case.answered(2, true), [], "one is enough");
        let waiting = case.wants.arrived(&cid(1), Some(peer(3)), case.now);
        assert_eq!(waiting.len(), 1);
        assert_eq!(case.sent(), [cancel(1), cancel(2)]);
        assert!(!case.wants.is_wanted(&cid(1)) && !case.wants.needs(&peer(1)));
    }

    #[test]
    fn the_only_peer_there_is_is_asked_for_the_block_at_once() {
        let mut case = Case::new(None, &[2]);
        assert_eq!(case.sent(), [block(2)]);
        assert_eq!(case.answered(2, false), []);
        assert_eq!(case.after(A_MOMENT), []);
        assert_eq!(case.after(ASK_AGAIN), [have(2)], "it may have forgotten");
    }

    #[test]
    fn a_hint_is_asked_alone_until_it_answers_no_breaks_or_is_silent() {
        for others_asked_after in [
            (|case| case.answered(9, false)) as fn(&mut Case) -> Vec<(u8, Frame)>,
            |case| case.lost(9),
            |case| case.after(HINT_PATIENCE),
        ] {
            let mut case = Case::new(Some(9), &[1, 2]);
            assert_eq!(case.sent(), [block(9)]);
            assert_eq!(case.after(A_MOMENT), []);
            assert_eq!(others_asked_after(&mut case), [have(1), have(2)]);
        }
    }

    #[test]
    fn a_hint_that_sends_other_blocks_is_not_silent() {
        let mut case = Case::new(Some(9), &[1, 2]);
        case.sent();
        for _ in 0..10 {
            case.now += HINT_PATIENCE / 2;
            case.wants.arrived(&cid(2), Some(peer(9)), case.now);
            assert_eq!(case.after(HINT_PATIENCE / 2 - A_MOMENT), []);
        }
        assert_eq!(case.after(HINT_PATIENCE), [have(1), have(2)]);
    }

    #[test]
    fn a_peer_that_has_it_and_does_not_send_it_is_replaced() {
        let mut case = Case::new(None, &[1, 2, 3]);
        case.sent();
        case.answered(1, true);
        case.answered(2, true);
        assert_eq!(case.after(BLOCK_PATIENCE - A_MOMENT), []);
        assert_eq!(case.after(A_MOMENT), [block(2)]);
        assert_eq!(case.lost(2), [block(1)], "better a slow one than none");
        assert_eq!(case.lost(1), []);
        assert_eq!(case.answered(3, true), [block(3)]);
        assert_eq!(case.after(RETRY), [have(1), have(2)], "streams break, peers come back");
    }

    #[test]
    fn a_peer_that_connects_is_asked_for_everything() {
        let mut case = Case::new(None, &[]);
        assert_eq!(case.sent(), []);
        case.wants.connected(peer(3), case.now);
        assert_eq!(case.sent(), [have(3)]);
        case.wants.connected(peer(3), case.now);
        assert_eq!(case.sent(), [], "it was asked");
        case.lost(3);
        case.wants.connected(peer(3), case.now);
        assert_eq!(case.sent(), [have(3)], "it is back");

        let mut case = Case::new(Some(9), &[]);
        case.sent();
        case.wants.connected(peer(3), case.now);
        assert_eq!(case.sent(), [], "the hint comes first");
    }

    #[test]
    fn the_last_waiter_takes_the_want_back_where_it_is_remembered() {
        let mut case = Case::new(None, &[1, 2, 3]);
        case.sent();
        case.answered(2, false);
        case.lost(3);
        let (second, _receiver) = case.wants.want(cid(1), None, &case.connected, case.now);
        assert_eq!(case.sent(), [], "asked already");
        case.wants.drop_waiter(&cid(1), case.waiter);
        assert_eq!(case.sent(), []);
        case.wants.drop_waiter(&cid(1), second);
        assert_eq!(case.sent(), [cancel(1), cancel(2)], "3 forgot with its stream");
        case.wants.drop_waiter(&cid(1), second);
        assert_eq!(case.wants.arrived(&cid(1), Some(peer(1)), case.now).len(), 0, "too late");
    }

    #[test]
    fn a_second_waiter_may_know_better_whom_to_ask() {
        let mut case = Case::new(None, &[1, 2]);
        case.sent();
        let _second = case.wants.want(cid(1), Some(peer(9)), &case.connected, case.now);
        assert_eq!(case.sent(), [have(9)]);
    }

    #[test]
    fn a_peer_that_sent_a_wrong_block_is_not_asked_for_a_while() {
        let mut case = Case::new(None, &[1, 2]);
        case.sent();
        case.wants.distrust(peer(1), case.now);
        assert_eq!(case.lost(1), []);
        assert_eq!(case.after(ASK_AGAIN), []);
        case.wants.connected(peer(1), case.now);
        let _other = case.wants.want(cid(2), Some(peer(1)), &case.connected, case.now);
        assert_eq!(case.sent(), [(2, Frame::WantBlock(cid(2)))], "nor as a hint");
        assert_eq!(case.after(DISTRUST), [have(1)]);
    }

    #[test]
    fn what_nobody_asked_a_peer_is_not_believed() {
        let mut case = Case::new(None, &[1]);
        case.sent();
        assert_eq!(case.answered(5, true), []);
        case.wants.answered(peer(1), cid(7), true, &[], case.now);
        assert_eq!(case.sent(), []);
    }

    #[test]
    fn taking_back_never_fills_an_outbox_without_bound() {
        let (mut wants, now) = (Wants::default(), Instant::now());
        for number in 0..OUTBOX_FRAMES_MAX as u32 + 100 {
            let (waiter, _) = wants.want(cid(number), None, &peers(&[1]), now);
            wants.drop_waiter(&cid(number), waiter);
        }
        let frames = wants.outbox(&peer(1), usize::MAX).len();
        assert!((OUTBOX_FRAMES_MAX - 1..=OUTBOX_FRAMES_MAX).contains(&frames), "{frames}");
    }
}
