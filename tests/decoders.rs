//! Every decoder of bytes from outside over its corpus, 10,000 mutations of it, and parts of it repeated until they are
//! long: none panics, none reads what it could not write, none takes much memory or time.
//!
//! `cargo xtask fuzz` looks for more with libFuzzer. `IPFS_CLUSTER_TEST_LONG=1` does a hundred times as many here.

#![allow(unsafe_code)] // An allocator that counts cannot be had otherwise.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use ipfs_cluster::testing::decoders::{self, Decoder};
use ipfs_cluster::testing::mutate::{Mutator, for_each_mutation};

const MUTATIONS: usize = 10_000;
/// Times as many, where there is time.
const LONG: usize = 100;
/// Inputs for each decoder that are long.
const INFLATED: usize = 60;
/// How long those are.
const INFLATED_BYTES: usize = 256 << 10;
/// What any input may take at most while it is read, written and read again: this, and so many times its length.
const MEMORY_BYTES: usize = 1 << 20;
const MEMORY_FACTOR: usize = 64;
/// What one input may take at most; the machine may be busy.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST_HELD: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is on its way out is of no interest.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST_HELD.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: the system's allocator does all of it; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while one is copied to the other.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Default)]
struct Fed {
    read: usize,
    refused: usize,
    most_bytes: usize,
    most_factor: usize,
    slowest: Duration,
}

impl Fed {
    fn feed(&mut self, decoder: &Decoder, bytes: &[u8]) {
        // Enough to try it again.
        const SHOWN_BYTES: usize = 8 << 10;
        let shown = || {
            let head = &bytes[..bytes.len().min(SHOWN_BYTES)];
            format!("{}, {} bytes, beginning with {}", decoder.name, bytes.len(), hex::encode(head))
        };
        let started = Instant::now();
        HELD.set(0);
        MOST_HELD.set(0);
        let decoded = catch_unwind(AssertUnwindSafe(|| (decoder.decode)(bytes)));
        let held = MOST_HELD.get() as usize;
        let took = started.elapsed();
        match decoded {
            Ok(true) => self.read += 1,
            Ok(false) => self.refused += 1,
            Err(panic) => {
                eprintln!("panicked on {}", shown());
                resume_unwind(panic);
            }
        }
        assert!(held <= MEMORY_BYTES + MEMORY_FACTOR * bytes.len(), "{held} bytes for {}", shown());
        assert!(took <= TIME_MAX, "{took:?} for {}", shown());
        self.most_bytes = self.most_bytes.max(held);
        if bytes.len() >= INFLATED_BYTES {
            self.most_factor = self.most_factor.max(held / bytes.len());
        }
        self.slowest = self.slowest.max(took);
    }
}

fn run(name: &str) {
    let decoder = decoders::find(name).unwrap_or_else(|| panic!("there is no decoder {name}"));
    let corpus = (decoder.corpus)();
    let mut fed = Fed::default();
    corpus.iter().for_each(|bytes| fed.feed(&decoder, bytes));
    assert!(fed.read > 0 && fed.read >= fed.refused, "{name} does not read its corpus: {fed:?}");
    let long = std::env::var_os("IPFS_CLUSTER_TEST_LONG").is_some_and(|value| value == "1");
    let count = if long { LONG * MUTATIONS } else { MUTATIONS };
    for_each_mutation(0x5eed, &corpus, count, |bytes| fed.feed(&decoder, bytes));
    fed.feed(&decoder, &[]);
    inflated(&corpus).for_each(|bytes| fed.feed(&decoder, &bytes));
    eprintln!("{name}: {fed:?}");
    let few = count / 500;
    assert!(fed.read > few && fed.refused > few, "{name}: mutations that are of no use: {fed:?}");
}

/// Items that take a byte or two and may take much more when they are read, and parts of the corpus, over and over.
fn inflated(corpus: &[Vec<u8>]) -> impl Iterator<Item = Vec<u8>> {
    const SHORT: [&[u8]; 11] = [
        &[0x0a, 0],
        &[0x12, 0],
        &[0x1a, 0],
        &[0x22, 0],
        &[0xc0],
        &[0x80],
        &[0x91],
        &[0],
        b"/\n",
        b"{}",
        b"[",
    ];
    // A list and a map that say how long they are.
    let announced = [(0xdd, 1), (0xdf, 2)].map(|(marker, each)| {
        let count = (INFLATED_BYTES / each) as u32;
        [&[marker][..], &count.to_be_bytes(), &vec![0xc0; INFLATED_BYTES]].concat()
    });
    // Empty fields of a message that is a field itself.
    let fields = [0x0a, 0x12, 0x1a, 0x22, 0x32];
    let nested = fields.into_iter().flat_map(|outer| {
        [0x0a, 0x12, 0x32, 0x4a, 0x52].map(|inner| {
            // 2^18 bytes as a varint.
            const LENGTH: [u8; 3] = [0x80, 0x80, 0x10];
            [&[outer][..], &LENGTH, &[inner, 0].repeat(INFLATED_BYTES / 2)].concat()
        })
    });
    let mut mutator = Mutator::new(0x1f1a);
    let repeated = |item: &[u8]| item.repeat(INFLATED_BYTES.div_ceil(item.len()));
    let short = SHORT.map(repeated);
    let parts = (0..INFLATED).map(move |index| {
        let original = &corpus[index % corpus.len()];
        let start = mutator.below(original.len());
        let length = 1 + mutator.below(16.min(original.len() - start));
        let part = &original[start..start + length];
        [&original[..start], &repeated(part), &original[start + length..]].concat()
    });
    short.into_iter().chain(announced).chain(nested).chain(parts)
}

/// One test for each decoder.
macro_rules! decoders {
    ($($(#[$condition:meta])* $name:ident)*) => {
        $($(#[$condition])* #[test] fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn no_decoder_is_missing() {
            let table = vec![$($(#[$condition])* stringify!($name)),*];
            let names: Vec<_> = decoders::all().iter().map(|decoder| decoder.name).collect();
            assert_eq!(names, table);
        }
    };
}
decoders! {
    #[cfg(feature = "add")]
    add_car
    #[cfg(feature = "add")]
    add_form
    bitswap_message
    bitswap_stream
    #[cfg(feature = "consensus-crdt")]
    crdt_block
    #[cfg(feature = "consensus-crdt")]
    crdt_block_id
    #[cfg(feature = "consensus-crdt")]
    crdt_broadcast
    #[cfg(feature = "consensus-crdt")]
    crdt_catchup
    #[cfg(feature = "consensus-crdt")]
    crdt_delta
    #[cfg(feature = "consensus-crdt")]
    crdt_elements
    #[cfg(feature = "consensus-crdt")]
    crdt_key
    #[cfg(feature = "consensus-crdt")]
    crdt_log
    #[cfg(feature = "consensus-crdt")]
    crdt_walks
    event_cursor
    identity
    import_lines
    #[cfg(feature = "transport-libp2p")]
    mdns_packet
    metric
    page_cursor
    peerstore
    pin_record
    pin_value
    #[cfg(feature = "consensus-raft")]
    raft_answer
    #[cfg(feature = "consensus-raft")]
    raft_entry
    #[cfg(feature = "consensus-raft")]
    raft_part
    #[cfg(feature = "consensus-raft")]
    raft_question
    #[cfg(feature = "consensus-raft")]
    raft_seen
    #[cfg(feature = "api-rest")]
    rest_query
    rpc_block
    rpc_header
    rpc_reply
    rpc_request
    rpc_stream
    rpc_value
    service_json
    state_head
    stream_frame
}
