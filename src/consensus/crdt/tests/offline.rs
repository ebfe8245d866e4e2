//! A set of a peer that does not run, as an operator looks at it.

use super::*;
use crate::consensus::CrdtStore;

fn dot(store: &CrdtStore) -> (u64, String) {
    let mut text = Vec::new();
    let blocks = store.write_dot(&mut text).unwrap();
    (blocks, String::from_utf8(text).unwrap())
}

#[tokio::test(start_paused = true)]
async fn heads_mark_and_graph_are_those_of_the_last_run() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let empty = CrdtStore::open(storage.clone()).unwrap();
    assert_eq!((empty.info().unwrap(), empty.info().unwrap().max_height()), (Default::default(), 0));
    assert_eq!(dot(&empty), (0, "digraph CRDTDAG {\nsubgraph heads {\n}\n}\n".to_owned()));

    let crdt = open(storage.clone(), AT_ONCE).await;
    let (first, second) = (pin(1), pin(2));
    let bottom = node(&[], &[&first], &[]);
    let (left, right) = (node(&[&bottom], &[&second], &[]), node(&[&bottom], &[], &[(&first, &bottom)]));
    let top = node(&[&left, &right], &[], &[]);
    for node in [&bottom, &left, &right, &top] {
        merge(&crdt, &[node], tip(node)).await;
    }
    crdt.shutdown().await.unwrap();

    let store = CrdtStore::open(storage.clone()).unwrap();
    let info = store.info().unwrap();
    assert_eq!((&*info.heads, info.max_height(), info.is_dirty), (&[(top.cid, 3)][..], 3, false));
    store.set_dirty(true).unwrap();
    assert!(store.info().unwrap().is_dirty);
    store.set_dirty(false).unwrap();
    assert!(!store.info().unwrap().is_dirty);

    let (blocks, text) = dot(&store);
    assert_eq!(blocks, 4, "the one that two link to is written once");
    let block = |node: &Node, label: &str| {
        let name = node.cid.to_string();
        let short = &name[name.len() - 4..];
        let links: Vec<String> = node.links.iter().map(ToString::to_string).collect();
        let listed: String = links.iter().map(|link| format!("{link} ")).collect();
        let lines: String = links.iter().map(|link| format!("{link}\n")).collect();
        let (height, changes) = label.split_once('|').unwrap();
        format!(
            "{name} [label=\"{height} | {short}: {changes}\"]\n{name} -> {{{listed}}}\nsubgraph sg_{name} {{\n{lines}}}\n"
        )
    };
    let expected = [
        format!("digraph CRDTDAG {{\nsubgraph heads {{\n{}\n}}\n", top.cid),
        block(&top, "3|+0 -0"),
        block(&left, "2|+1 -0"),
        block(&bottom, "1|+1 -0"),
        block(&right, "2|+0 -1"),
        "}\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[test]
fn a_set_of_a_newer_program_is_refused() {
    let storage = MemoryStorage::new();
    let mut batch = crate::storage::Batch::new();
    batch.put(records::META, records::META_FORMAT, vec![records::FORMAT + 1]);
    storage.write(batch, crate::storage::Durability::Synced).unwrap();
    let error = CrdtStore::open(Arc::new(storage)).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
}
