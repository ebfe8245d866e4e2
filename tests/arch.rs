//! Who may import whom inside the library: arrows point down only.
//!
//! The table comes first, the test of `src/` after it, then the machinery, then tests that it finds what it should.
//!
//! - A module may import modules of its own layer and of those below (or up to the ceiling in its row).
//! - An **implementation** never imports another implementation, nor `cluster`, nor anything above.
//! - The files of one folder belong together and may use each other: a helper (`tracker::queue`) needs no row, it has
//!   the layer of its folder. Two exceptions: two implementations in one folder stay apart, and the contract itself
//!   (`mod.rs`) does not use its implementations. It may re-export them with `pub use`.
//! - A file that implements its folder's contract is an implementation, and needs a row.
//! - Code under `#[cfg(test)]` stands above everything and is not looked at; neither are comments and `lib.rs`.
//!
//! The sources are read as text. Re-exports are followed: it counts where a thing lives, and where it is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

// Named by path, because a file directly in `tests/` would be a test program of its own.
#[path = "arch/sources.rs"]
mod sources;

use sources::{Implements, Module, Reference, Sources};

/// Top module, its layer, and the highest layer it may import.
const LAYERS: &[(&str, u8, u8)] = &[
    ("error", 0, 0),
    ("types", 0, 0),
    ("clock", 0, 0),
    ("config", 0, 0),
    ("random", 0, 0),
    ("tasks", 0, 0),
    ("storage", 1, 1),
    ("state", 1, 1),
    ("exchange", 1, 1),
    ("ipfs_connector", 1, 1),
    ("informer", 1, 1),
    ("allocator", 1, 1),
    ("transport", 1, 1),
    ("consensus", 2, 2),
    ("tracker", 2, 2),
    ("monitor", 2, 2),
    ("adder", 2, 2),
    ("rpc", 2, 2),
    ("cluster", 4, 4),
    ("api", 5, 4),
    ("client", 5, 0),
    ("testing", 5, 5),
];

/// Modules that stand elsewhere than the top module they are in, with everything below them.
const ELSEWHERE: &[(&str, u8, u8)] = &[
    // Switches that a simulation turns and that those look at who have a bug to show.
    ("testing::planted", 0, 0),
    // The one part of the client that needs libp2p: hosts that are peers.
    ("client::peers", 5, 3),
];

const IMPLEMENTATION_LAYER: u8 = 3;

/// Implementations, each with everything below it; `*` makes one of each submodule.
const IMPLEMENTATIONS: &[&str] = &[
    "storage::memory",
    "storage::fjall",
    "storage::redb",
    "state::memory",
    "state::store",
    "exchange::stream",
    "exchange::bitswap",
    "ipfs_connector::kubo",
    "ipfs_connector::memory",
    "informer::*",
    "allocator::balanced",
    "transport::memory",
    "transport::libp2p",
    "consensus::solo",
    "consensus::crdt",
    "consensus::etcd",
    "consensus::raft",
    "tracker::stateless",
    "monitor::local",
    "monitor::pubsub",
];

/// What makes a file below the folder an implementation.
const CONTRACTS: &[(&str, &str)] = &[
    ("storage", "Storage"),
    ("state", "State"),
    ("state", "StateReader"),
    ("exchange", "BlockExchange"),
    ("ipfs_connector", "IpfsConnector"),
    ("informer", "Informer"),
    ("allocator", "PinAllocator"),
    ("transport", "PeerTransport"),
    ("consensus", "Consensus"),
    ("tracker", "PinTracker"),
    ("monitor", "Monitor"),
];

#[test]
fn arrows_point_down_only() {
    let mut files = Vec::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    assert!(files.iter().any(|(path, _)| path == "lib.rs"), "src/lib.rs was not found");
    let complaints = complaints(&files);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn read_sources(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_dir() {
            read_sources(&path, &format!("{prefix}{name}/"), files);
        } else if name.ends_with(".rs") {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            files.push((format!("{prefix}{name}"), text));
        }
    }
}

// ---- The rules

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A top module, and every file below it that is no implementation.
    Folder,
    Implementation,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    row: String,
    layer: u8,
    ceiling: u8,
    kind: Kind,
}

/// The row that covers a module. The crate's root has none, and neither has a top module that nobody placed.
fn place(module: &[String]) -> Option<Place> {
    let top = module.first()?;
    for row in IMPLEMENTATIONS {
        let mut row_names = row.split("::");
        let length = row.split("::").count();
        if module.len() >= length
            && module.iter().zip(&mut row_names).all(|(name, row)| row == "*" || row == name)
        {
            let row = module[..length].join("::");
            let ceiling = IMPLEMENTATION_LAYER;
            return Some(Place { row, layer: IMPLEMENTATION_LAYER, ceiling, kind: Kind::Implementation });
        }
    }
    for (row, layer, ceiling) in ELSEWHERE {
        if row.split("::").eq(module.iter().take(row.split("::").count()).map(String::as_str)) {
            return Some(Place {
                row: (*row).to_owned(),
                layer: *layer,
                ceiling: *ceiling,
                kind: Kind::Folder,
            });
        }
    }
    let (_, layer, ceiling) = LAYERS.iter().find(|(name, _, _)| name == top)?;
    Some(Place { row: top.clone(), layer: *layer, ceiling: *ceiling, kind: Kind::Folder })
}

/// Why `from` may not use what lives in `to`, if it may not.
fn verdict(from: &Module, to: &Module, is_re_export: bool) -> Option<String> {
    // The root only lists the modules, and who is not in the table has been named already.
    let (place, target) = (place(from)?, place(to)?);
    if place.row == target.row {
        return None;
    }
    let shown = |place: &Place| format!("{} (layer {})", place.row, place.layer);
    let (here, there) = (shown(&place), shown(&target));
    let between_implementations = place.kind == Kind::Implementation && target.kind == Kind::Implementation;
    if between_implementations {
        return Some(format!("{here} imports {there}: implementations never import each other"));
    }
    if from.first() == to.first() {
        let is_contract = from.len() == 1;
        let uses_its_own = is_contract && target.kind == Kind::Implementation && !is_re_export;
        return uses_its_own
            .then(|| format!("{here} uses {there}: a contract does not know who implements it"));
    }
    if target.layer > place.ceiling {
        return Some(format!("{here} imports {there}: it may import up to layer {}", place.ceiling));
    }
    None
}

/// Everything that breaks a rule in these files: paths below `src/` and texts.
fn complaints<P: AsRef<str>, T: AsRef<str>>(files: &[(P, T)]) -> Vec<String> {
    let mut sources = Sources::default();
    for (path, text) in files {
        sources.read(path.as_ref(), text.as_ref());
    }
    sources.forget_tests();

    let mut complaints = Vec::new();
    let mut unplaced = BTreeSet::new();
    for (path, module) in &sources.files {
        let top = module.first().filter(|_| place(module).is_none());
        if let Some(top) = top.filter(|top| unplaced.insert(*top)) {
            complaints.push(format!(
                "src/{path}: no row covers `{top}`; add (\"{top}\", layer, ceiling) to LAYERS"
            ));
        }
    }
    for Implements { path, line, module, contract } in &sources.implements {
        let is_its_folder =
            module.first().is_some_and(|top| CONTRACTS.contains(&(top.as_str(), contract.as_str())));
        // A contract's own file has the forwarding through `Arc`.
        if is_its_folder && module.len() > 1 && place(module).is_some_and(|place| place.kind == Kind::Folder)
        {
            let row = module[..2].join("::");
            complaints
                .push(format!("src/{path}:{line}: implements {contract}; add \"{row}\" to IMPLEMENTATIONS"));
        }
    }
    let mut said = BTreeSet::new();
    for reference in &sources.references {
        let Reference { path, line, module, names, is_re_export } = reference;
        let touched = sources.resolve(module, names);
        let complaint = touched.iter().find_map(|target| verdict(module, target, *is_re_export));
        if let Some(complaint) = complaint.filter(|complaint| said.insert((path, complaint.clone()))) {
            complaints.push(format!("src/{path}:{line}: `{}`: {complaint}", names.join("::")));
        }
    }
    complaints
}

// ---- Does it find what it should?

/// A small crate to put violations into.
const SOUND: &[(&str, &str)] = &[
    (
        "lib.rs",
        "mod error; mod types; mod storage; mod tracker; mod cluster; pub use cluster::Cluster; pub use error::Error;",
    ),
    ("error.rs", "pub struct Error;"),
    ("types/mod.rs", "mod cid; pub use cid::Cid;"),
    ("types/cid.rs", "pub struct Cid;"),
    (
        "storage/mod.rs",
        "mod memory; mod fjall; pub use self::memory::Memory; pub trait Storage { fn get(&self) -> crate::Error; }",
    ),
    ("storage/memory.rs", "use super::Storage; pub struct Memory; impl Storage for Memory {}"),
    (
        "storage/fjall.rs",
        "use crate::storage::Storage; use super::codec; pub struct Fjall; impl super::Storage for Fjall {}",
    ),
    ("storage/codec.rs", "use crate::types::Cid;"),
    (
        "tracker/mod.rs",
        "use crate::{error::Error, storage::Storage}; mod queue; mod stateless; pub trait PinTracker {}",
    ),
    ("tracker/queue.rs", "use super::stateless::StatelessTracker;"),
    (
        "tracker/stateless.rs",
        "use super::{PinTracker, queue::Queue}; pub struct StatelessTracker; impl PinTracker for StatelessTracker {}",
    ),
    ("cluster/mod.rs", "use crate::tracker::stateless::StatelessTracker; pub struct Cluster;"),
    ("client/mod.rs", "use crate::types::Cid;"),
    (
        "testing/mod.rs",
        "pub use crate::cluster::Cluster; pub struct Fake; impl crate::storage::Storage for Fake {}",
    ),
];

fn with(changes: &[(&str, &str)]) -> Vec<String> {
    let mut files: BTreeMap<&str, String> =
        SOUND.iter().map(|(path, text)| (*path, (*text).to_owned())).collect();
    for (path, more) in changes {
        let text = files.entry(path).or_default();
        text.push('\n');
        text.push_str(more);
    }
    complaints(&files.into_iter().collect::<Vec<_>>())
}

#[test]
fn a_sound_crate_gets_no_complaint() {
    assert_eq!(with(&[]), Vec::<String>::new());
}

#[test]
fn a_deliberate_violation_is_found_however_it_is_written() {
    let violations: &[(&str, &str, &str)] = &[
        ("storage/mod.rs", "use crate::tracker::PinTracker;", "storage (layer 1) imports tracker (layer 2)"),
        (
            "storage/mod.rs",
            "pub use crate::tracker::PinTracker;",
            "storage (layer 1) imports tracker (layer 2)",
        ),
        ("types/cid.rs", "use super::super::storage::Storage;", "types (layer 0) imports storage (layer 1)"),
        (
            "types/cid.rs",
            "use crate::{error::{Error}, storage::{self as s, Storage}};",
            "imports storage (layer 1)",
        ),
        (
            "types/cid.rs",
            "fn f() { let x = crate::storage::get(); }",
            "types (layer 0) imports storage (layer 1)",
        ),
        (
            "types/cid.rs",
            "mod inner { use super::super::super::storage; }",
            "types (layer 0) imports storage",
        ),
        (
            "types/cid.rs",
            "macro_rules! m { () => { $crate::storage::Memory::new() } }",
            "imports storage::memory (layer 3)",
        ),
        (
            "types/cid.rs",
            "#[cfg(any(test, feature = \"testing\"))] use crate::storage;",
            "imports storage (layer 1)",
        ),
        (
            "types/cid.rs",
            "#[cfg(not(test))] use crate::storage;",
            "types (layer 0) imports storage (layer 1)",
        ),
        ("types/cid.rs", "#[cfg(test)] use crate::error; use crate::storage;", "imports storage (layer 1)"),
        (
            "storage/fjall.rs",
            "use super::memory::Memory;",
            "storage::fjall (layer 3) imports storage::memory (layer 3)",
        ),
        ("storage/fjall.rs", "use super::*; fn f() { memory::f(); }", "imports storage::memory (layer 3)"),
        (
            "storage/fjall.rs",
            "use super::Memory;",
            "storage::fjall (layer 3) imports storage::memory (layer 3)",
        ),
        ("tracker/stateless.rs", "use crate::storage::Memory;", "imports storage::memory (layer 3)"),
        (
            "tracker/stateless.rs",
            "use crate::storage; fn f() { storage::memory::f(); }",
            "imports storage::memory",
        ),
        (
            "tracker/stateless.rs",
            "use crate::storage as s; fn f() { s::Memory::f(); }",
            "imports storage::memory",
        ),
        (
            "tracker/stateless.rs",
            "use crate::cluster::Cluster;",
            "tracker::stateless (layer 3) imports cluster (layer 4)",
        ),
        (
            "tracker/stateless.rs",
            "use crate::Cluster;",
            "tracker::stateless (layer 3) imports cluster (layer 4)",
        ),
        (
            "tracker/queue.rs",
            "use crate::storage::memory;",
            "tracker (layer 2) imports storage::memory (layer 3)",
        ),
        ("tracker/mod.rs", "fn f() { stateless::f(); }", "a contract does not know who implements it"),
        ("tracker/mod.rs", "fn f() -> self::stateless::X {}", "a contract does not know who implements it"),
        ("cluster/mod.rs", "use crate::testing::Fake;", "cluster (layer 4) imports testing (layer 5)"),
        (
            "client/mod.rs",
            "use crate::Cluster;",
            "client (layer 5) imports cluster (layer 4): it may import up to layer 0",
        ),
        (
            "storage/rocks.rs",
            "impl<T> super::Storage for Rocks<T> {}",
            "add \"storage::rocks\" to IMPLEMENTATIONS",
        ),
        (
            "gossip/mod.rs",
            "",
            "src/gossip/mod.rs: no row covers `gossip`; add (\"gossip\", layer, ceiling) to LAYERS",
        ),
    ];
    for (path, text, expected) in violations {
        let complaints = with(&[(path, text)]);
        assert_eq!(complaints.len(), 1, "{path} {text}: {complaints:#?}");
        assert!(complaints[0].contains(expected), "{path} {text}: {complaints:#?}");
        assert!(complaints[0].starts_with(&format!("src/{path}:")), "{path} {text}: {complaints:#?}");
    }
}

#[test]
fn what_only_looks_like_a_violation_is_none() {
    let harmless: &[(&str, &str)] = &[
        (
            "types/cid.rs",
            "/// See [`crate::storage`]\n// use crate::storage;\n/* use /* crate::storage */ crate::storage; */",
        ),
        ("types/cid.rs", "const A: &str = \"use crate::storage; \\\" crate::storage::x\";"),
        (
            "types/cid.rs",
            "const A: &str = r#\"\" use crate::storage; \"#; const B: char = '\"'; fn f<'a>() { g('\\'') }",
        ),
        ("types/cid.rs", "#[cfg(test)] mod tests { use crate::storage::Memory; use crate::testing::Fake; }"),
        ("types/cid.rs", "#[cfg(test)]\n#[allow(unused)]\npub(crate) use crate::storage::{Memory, Storage};"),
        ("types/cid.rs", "#[cfg(all(unix, test))] fn f() -> [u8; 2] { crate::storage::f() }"),
        ("types/cid.rs", "struct S { #[cfg(test)] a: crate::storage::X, b: u8 }"),
        ("types/cid.rs", "#![cfg(test)] use crate::storage;"),
        ("types/cid.rs", "use storage::X; fn f() { storage::f(); other.crate_::f() }"),
        ("types/cid.rs", "pub(crate) fn f() -> impl Sized + use<> {} pub(in crate::types) struct S;"),
        ("tracker/mod.rs", "pub use stateless::StatelessTracker;"),
        ("tracker/mod.rs", "use crate::storage::codec; use super::types::Cid;"),
        ("testing/mod.rs", "use crate::storage::{fjall::Fjall, memory::Memory};"),
        ("storage/fjall/codec.rs", "use super::super::Storage; use super::Fjall; impl Storage for Page {}"),
        (
            "cluster/handler.rs",
            "use crate::{Error, storage::{Memory, fjall}}; use super::Cluster; use self::x::*;",
        ),
    ];
    for (path, text) in harmless {
        assert_eq!(with(&[(path, text)]), Vec::<String>::new(), "{path} {text}");
    }
}

#[test]
fn a_file_that_only_tests_see_may_import_everything() {
    let changes = [
        ("tracker/stateless.rs", "#[cfg(test)] mod tests;"),
        (
            "tracker/stateless/tests.rs",
            "use crate::{cluster::Cluster, storage::memory::Memory, testing::Fake};",
        ),
        ("tracker/stateless/tests/more.rs", "use crate::testing::Fake;"),
    ];
    assert_eq!(with(&changes), Vec::<String>::new());
}

#[test]
fn imports_in_a_circle_come_to_an_end() {
    let circle = [
        ("types/cid.rs", "use self::a::*; use super::b; mod a { use super::*; }"),
        ("types/mod.rs", "use cid::b; use cid::*;"),
    ];
    let complaints = with(&[circle[0], circle[1], ("types/cid.rs", "fn f() { b::c(); a::nothing::x(); }")]);
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn a_complaint_names_the_line() {
    let complaints =
        with(&[("types/mod.rs", "\n/* two\nlines */ const A: &str = \"a\nb\";\nuse crate::storage;")]);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].starts_with("src/types/mod.rs:6: `crate::storage`: types"), "{complaints:#?}");
}
