use openraft::CommittedLeaderId;
use tokio_util::sync::CancellationToken;

use super::super::command::{Key, Operations};
use super::super::types::Command;
use super::*;
use crate::consensus::events;
use crate::state::{StateReader as _, StoreState};
use crate::storage::MemoryStorage;
use crate::types::PeerId;

struct Stand {
    storage: Arc<dyn Storage>,
    state: Arc<dyn State>,
    peers: [PeerId; 2],
    index: u64,
}

impl Stand {
    async fn with_members() -> (Self, Machine) {
        let mut stand = Self::new().await;
        let mut machine = stand.machine().await;
        stand.members(&mut machine, &[0, 1]).await;
        (stand, machine)
    }

    async fn new() -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let state: Arc<dyn State> = Arc::new(StoreState::open(storage.clone()).await.unwrap());
        Self { storage, state, peers: [PeerId::random(), PeerId::random()], index: 0 }
    }

    async fn machine(&self) -> Machine {
        let (events, _) = events::channel(16);
        let surroundings = Surroundings {
            node: Node::of(self.peers[0]),
            storage: self.storage.clone(),
            state: self.state.clone(),
            events: Arc::new(events),
            events_max: 16,
            applied: Arc::default(),
            transfers: Arc::default(),
            failure: Failure::default(),
            starts: Arc::default(),
            trim: Arc::new(Trim::new(1 << 20)),
        };
        let (storage, trim) = (self.storage.clone(), Arc::new(Trim::new(1 << 20)));
        let log = LogStore::open(Node::default(), storage, Failure::default(), trim).await.unwrap();
        Machine::open(surroundings, log, CancellationToken::new().drop_guard()).await.unwrap()
    }

    fn entry(&mut self, payload: EntryPayload<Types>) -> Entry {
        self.index += 1;
        let log_id = LogId::new(CommittedLeaderId::new(1, Node::default()), self.index);
        Entry { log_id, payload }
    }

    /// An entry of what one peer asked for.
    fn entry_of(
        &mut self,
        peer: usize,
        (session, sequence, floor): (u64, u64, u64),
        operation: PinOperation,
    ) -> Entry {
        let key = Key { origin: self.peers[peer], session, sequence, floor };
        let part = Operations::encode(&[operation], true).unwrap().into_part(key);
        self.entry(EntryPayload::Normal(Command(command::join(&[part]))))
    }

    /// Applies that these are the members.
    async fn members(&mut self, machine: &mut Machine, peers: &[usize]) {
        let voters = peers.iter().map(|peer| Node::of(self.peers[*peer])).collect();
        let entry = self.entry(EntryPayload::Membership(Membership::new(vec![voters], ())));
        machine.apply_all(vec![entry]).await.unwrap();
    }

    /// Applies what one peer asked for.
    async fn ask(
        &mut self,
        machine: &mut Machine,
        peer: usize,
        key: (u64, u64, u64),
        operation: PinOperation,
    ) -> PartOutcome {
        let entry = self.entry_of(peer, key, operation);
        let mut outcomes = machine.apply_all(vec![entry]).await.unwrap();
        outcomes.remove(0).0.remove(0)
    }
}

fn cid(number: u8) -> Cid {
    Cid::new_v1(0x55, cid::multihash::Multihash::<64>::wrap(0x12, &[number; 32]).unwrap())
}

fn pin(number: u8) -> PinOperation {
    PinOperation::Pin(Arc::new(Pin::new(cid(number), Default::default())))
}

fn applied(answers: Answers) -> PartOutcome {
    PartOutcome::Applied(answers)
}

#[tokio::test]
async fn a_part_that_comes_again_changes_nothing_and_has_the_same_answer() {
    let (mut stand, mut machine) = Stand::with_members().await;
    assert_eq!(stand.ask(&mut machine, 0, (7, 1, 1), pin(1)).await, applied(Vec::new()));
    let gone = stand.ask(&mut machine, 1, (3, 1, 1), PinOperation::Unpin(cid(1))).await;
    assert!(matches!(&gone, PartOutcome::Applied(answers) if answers.len() == 1 && answers[0].is_some()));
    for machine in [&mut machine, &mut stand.machine().await] {
        // Its answer was lost, and it asks again.
        assert_eq!(stand.ask(machine, 0, (7, 1, 1), pin(1)).await, applied(Vec::new()));
        assert_eq!(stand.state.get(&cid(1)).await.unwrap(), None, "it was pinned again");
        assert_eq!(stand.ask(machine, 1, (3, 1, 1), PinOperation::Unpin(cid(1))).await, gone);
    }
    // Under another key it is another wish.
    assert_eq!(stand.ask(&mut machine, 0, (7, 2, 2), pin(1)).await, applied(Vec::new()));
    assert!(stand.state.get(&cid(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_part_that_comes_again_at_the_same_time_has_the_same_answer() {
    let (mut stand, mut machine) = Stand::with_members().await;
    stand.ask(&mut machine, 0, (7, 1, 1), pin(1)).await;
    // A leader that had no answer for it stopped, and the next one has both in its log.
    let entries = [(); 2].map(|()| stand.entry_of(1, (3, 1, 1), PinOperation::Unpin(cid(1))));
    let outcomes = machine.apply_all(entries.into()).await.unwrap();
    assert!(matches!(&outcomes[0].0[0], PartOutcome::Applied(answers) if answers[0].is_some()));
    assert_eq!(outcomes[0].0, outcomes[1].0);
}

#[tokio::test]
async fn sessions_only_go_forward_and_floors_forget() {
    let (mut stand, mut machine) = Stand::with_members().await;
    for sequence in 1..=20 {
        stand.ask(&mut machine, 0, (7, sequence, sequence.saturating_sub(3).max(1)), pin(1)).await;
    }
    let seen = |machine: &Machine| machine.seen.values().map(|seen| seen.done.len()).sum::<usize>();
    assert_eq!(seen(&machine), 4);
    assert_eq!(machine.seen, stand.machine().await.seen, "what is stored is what is remembered");
    // Below the floor nobody waits for it.
    assert_eq!(stand.ask(&mut machine, 0, (7, 2, 1), PinOperation::Unpin(cid(1))).await, applied(Vec::new()));
    assert!(stand.state.get(&cid(1)).await.unwrap().is_some());
    assert_eq!(stand.ask(&mut machine, 0, (8, 1, 1), pin(2)).await, applied(Vec::new()));
    assert_eq!(stand.ask(&mut machine, 0, (7, 21, 20), pin(3)).await, PartOutcome::Stale(8));
    assert_eq!(stand.state.get(&cid(3)).await.unwrap(), None);
    assert_eq!((seen(&machine), machine.seen), (1, stand.machine().await.seen));
}

#[tokio::test]
async fn what_is_known_to_be_agreed_on_is_applied_before_anybody_is_heard() {
    use openraft::storage::RaftLogStorage as _;

    for (voters, expected) in [(&[0][..], 10), (&[0, 1], 5), (&[1], 5)] {
        let mut stand = Stand::new().await;
        let (own, origin) = (Node::of(stand.peers[0]), voters[0]);
        let voters = voters.iter().map(|peer| Node::of(stand.peers[*peer])).collect();
        let voters = Membership::new(vec![voters], ());
        let first = LogId::new(CommittedLeaderId::new(1, Node::default()), 0);
        let mut entries = vec![Entry { log_id: first, payload: EntryPayload::Blank }];
        entries.push(stand.entry(EntryPayload::Membership(voters)));
        for number in 2..=10u8 {
            entries.push(stand.entry_of(origin, (7, u64::from(number), 1), pin(number)));
        }
        let open =
            || LogStore::open(own, stand.storage.clone(), Failure::default(), Arc::new(Trim::new(1 << 20)));
        let mut log = open().await.unwrap();
        let last = entries.split_off(10);
        log.save_committed(Some(entries[1].log_id)).await.unwrap();
        log.put(&entries).await.unwrap();
        log.save_committed(Some(entries[5].log_id)).await.unwrap();
        assert_eq!(open().await.unwrap().committed(), Some(entries[1].log_id), "it has no sync of its own");
        log.put(&last).await.unwrap();
        let log = open().await.unwrap();
        let named = log.check().await.unwrap();
        let mut machine = stand.machine().await;
        machine.catch_up(named.as_ref()).await.unwrap();
        assert_eq!(machine.now.next() - 1, expected);
        assert_eq!(stand.state.counts().pins, expected - 1);
        // And not again.
        let mut again = stand.machine().await;
        again.catch_up(named.as_ref()).await.unwrap();
        assert_eq!(again.now, machine.now);
    }
}

#[tokio::test]
async fn of_peers_that_left_nothing_is_remembered_and_nothing_is_done_again() {
    let (mut stand, mut machine) = Stand::with_members().await;
    for peer in 0..2 {
        stand.ask(&mut machine, peer, (1, 1, 1), pin(1)).await;
    }
    stand.members(&mut machine, &[0]).await;
    assert_eq!(machine.seen.keys().collect::<Vec<_>>(), [&Node::of(stand.peers[0])]);
    let again = stand.machine().await;
    assert_eq!((&again.seen, &again.now), (&machine.seen, &machine.now));
    // It waits for its answer, and asks once more, behind those that were told the pin is gone.
    stand.ask(&mut machine, 0, (1, 2, 1), PinOperation::Unpin(cid(1))).await;
    assert_eq!(stand.ask(&mut machine, 1, (1, 1, 1), pin(1)).await, PartOutcome::NotMember);
    assert_eq!(stand.state.get(&cid(1)).await.unwrap(), None, "it was pinned again");
    // It joined again, with nothing left of what it was.
    stand.members(&mut machine, &[0, 1]).await;
    assert_eq!(stand.ask(&mut machine, 1, (1, 1, 1), pin(1)).await, applied(Vec::new()));
    assert!(stand.state.get(&cid(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_by_everybody_alike() {
    let (mut stand, mut machine) = Stand::with_members().await;
    let rubbish = stand.entry(EntryPayload::Normal(Command(Bytes::from_static(b"rubbish"))));
    let part = stand.entry(EntryPayload::Normal(Command(command::join(&[Bytes::from_static(b"?")]))));
    let outcomes = machine.apply_all(vec![rubbish, part]).await.unwrap();
    assert!(outcomes[0].0.is_empty());
    assert_eq!(outcomes[1].0, [PartOutcome::Unreadable]);
    assert_eq!(machine.now.next(), 4);
}
