//! Who is connected to whom, in the language of graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipfs_cluster::types::{ConnectGraph, PeerId};

/// Nodes by peer id as text, which is the order in which the reference draws them, with the name each one has in
/// the graph.
type Nodes = BTreeMap<String, String>;

/// Draws the graph. With `all_ipfs_peers` also IPFS daemons are drawn that belong to no peer.
pub(crate) fn graph(graph: &ConnectGraph, all_ipfs_peers: bool) -> String {
    let swarm = swarm_links(graph, all_ipfs_peers);
    let cluster: BTreeMap<String, &Vec<PeerId>> =
        graph.cluster_links.iter().map(|(peer, links)| (peer.to_string(), links)).collect();
    let daemons: BTreeMap<String, String> =
        graph.cluster_to_ipfs.iter().map(|(peer, ipfs)| (peer.to_string(), ipfs.to_string())).collect();

    let mut text = String::from(
        "digraph cluster {\n/* The nodes of the connectivity graph */\n/* The cluster-service peers */\n",
    );
    let peers = draw_peers(&mut text, graph, cluster.keys());
    text.push_str("\n/* The ipfs peers */\n");
    let missing: Vec<&String> = cluster.keys().filter(|peer| !daemons.contains_key(*peer)).collect();
    let (ipfs, errored) = draw_daemons(&mut text, swarm.keys(), &missing);

    text.push_str("\n/* Edges representing active connections in the cluster */\n");
    text.push_str("/* The connections among cluster-service peers */\n");
    for (peer, links) in &cluster {
        for other in links.iter() {
            edge(&mut text, peers.get(peer), peers.get(&other.to_string()), "");
        }
    }
    text.push_str("\n/* The connections between cluster peers and their ipfs daemons */\n");
    for peer in cluster.keys() {
        match daemons.get(peer) {
            Some(daemon) => edge(&mut text, peers.get(peer), ipfs.get(daemon), ""),
            None => edge(&mut text, peers.get(peer), errored.get(peer), " [ style=\"dotted\" ]"),
        }
    }
    text.push_str("\n/* The swarm peer connections among ipfs daemons in the cluster */\n");
    for (daemon, links) in &swarm {
        for other in links {
            edge(&mut text, ipfs.get(daemon), ipfs.get(other), "");
        }
    }
    text.push('}');
    text
}

/// Which IPFS daemons are connected, of those that are drawn.
fn swarm_links(graph: &ConnectGraph, all_ipfs_peers: bool) -> BTreeMap<String, Vec<String>> {
    let known: BTreeSet<&PeerId> = graph.ipfs_links.keys().collect();
    let mut swarm: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (daemon, links) in &graph.ipfs_links {
        let drawn = links.iter().filter(|other| all_ipfs_peers || known.contains(other));
        let drawn: Vec<String> = drawn.map(PeerId::to_string).collect();
        for other in &drawn {
            swarm.entry(other.clone()).or_default();
        }
        swarm.insert(daemon.to_string(), drawn);
    }
    swarm
}

fn draw_peers<'a>(text: &mut String, graph: &ConnectGraph, peers: impl Iterator<Item = &'a String>) -> Nodes {
    let own = graph.cluster_id.map(|peer| peer.to_string());
    let names: BTreeMap<String, &String> =
        graph.id_to_peername.iter().map(|(peer, name)| (peer.to_string(), name)).collect();
    let trusted: BTreeSet<String> = graph
        .cluster_trust_links
        .iter()
        .filter(|(_, trusted)| **trusted)
        .map(|(peer, _)| peer.to_string())
        .collect();
    let mut nodes = Nodes::new();
    text.push_str("subgraph  {\nrank=\"min\"\n");
    for peer in peers {
        let number = nodes.len();
        let (letter, color, more) = if own.as_ref() == Some(peer) {
            ('C', "orange", " peripheries=\"2\"")
        } else if trusted.contains(peer) {
            ('T', "orange", "")
        } else {
            ('C', "darkorange3", "")
        };
        let name = names.get(peer).map_or("", |name| name.as_str());
        let node = format!("{letter}{number}");
        vertex(text, &node, &label(name, &shortened(peer)), peer, color, &format!("shape=\"box3d\"{more}"));
        nodes.insert(peer.clone(), node);
    }
    text.push_str("}\n");
    nodes
}

/// Draws the daemons, and a stand-in for that of each peer that could not ask its own.
fn draw_daemons<'a>(
    text: &mut String,
    daemons: impl Iterator<Item = &'a String>,
    missing: &[&String],
) -> (Nodes, Nodes) {
    let (mut nodes, mut errored) = (Nodes::new(), Nodes::new());
    text.push_str("subgraph  {\nrank=\"max\"\n");
    for daemon in daemons {
        let node = format!("I{}", nodes.len());
        vertex(text, &node, &label("IPFS", &shortened(daemon)), daemon, "turquoise3", "shape=\"cylinder\"");
        nodes.insert(daemon.clone(), node);
    }
    for peer in missing {
        let node = format!("I{}", nodes.len() + errored.len());
        vertex(text, &node, &label("IPFS", "Errored"), peer, "firebrick1", "shape=\"cylinder\"");
        errored.insert((*peer).clone(), node);
    }
    text.push_str("}\n");
    (nodes, errored)
}

fn vertex(text: &mut String, node: &str, label: &str, group: &str, color: &str, shape: &str) {
    let _ = writeln!(
        text,
        "{node} [label={label} group=\"{group}\" color=\"{color}\" style=\"filled\" colorscheme=\"x11\" \
         fontcolor=\"black\" fontname=\"Arial\" {shape} ]"
    );
}

/// An edge between nodes that are drawn; one that is not has nowhere to lead.
fn edge(text: &mut String, from: Option<&String>, to: Option<&String>, style: &str) {
    if let (Some(from), Some(to)) = (from, to) {
        let _ = writeln!(text, "{from} -> {to}{style}");
    }
}

fn label(name: &str, id: &str) -> String {
    // A name is part of the markup here.
    let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("< <B> {name} </B> <BR/> <B> {id} </B> >")
}

/// `12*dwgeBK`.
fn shortened(id: &str) -> String {
    match (id.get(..2), id.len().checked_sub(6).and_then(|start| id.get(start..))) {
        (Some(start), Some(end)) => format!("{start}*{end}"),
        _ => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
    const B: &str = "12D3KooWJrXgPLcddsGwWa7UuMrxsts34DKx6he42cAd9FyR4s8L";
    const IPFS_A: &str = "12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE";
    const OTHER: &str = "12D3KooWQVgJwbMGwWpoarqX6yU3A98krgnoG17297AjcfbQsAki";

    fn example() -> ConnectGraph {
        serde_json::from_value(json!({
            "cluster_id": A,
            "id_to_peername": {A: "a<b>"},
            "ipfs_links": {IPFS_A: [OTHER]},
            "cluster_links": {A: [B, OTHER], B: []},
            "cluster_trust_links": {A: true, B: false},
            "cluster_to_ipfs": {A: IPFS_A},
        }))
        .unwrap()
    }

    #[test]
    fn peers_without_trust_without_daemon_and_unknown_links_are_drawn_or_left_out() {
        let text = graph(&example(), false);
        for part in [
            "C0 [label=< <B>  </B> <BR/> <B> 12*yR4s8L </B> > ",
            "color=\"darkorange3\"",
            "C1 [label=< <B> a&lt;b&gt; </B> ",
            "I1 [label=< <B> IPFS </B> <BR/> <B> Errored </B> > ",
            "color=\"firebrick1\"",
            "\nC1 -> C0\n",
            "\nC0 -> I1 [ style=\"dotted\" ]\nC1 -> I0\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches("->").count(), 3, "{text}");
        assert!(text.ends_with("in the cluster */\n}"), "{text}");
    }

    #[test]
    fn all_daemons_are_drawn_when_asked_for() {
        let text = graph(&example(), true);
        assert!(text.contains("I1 [label=< <B> IPFS </B> <BR/> <B> 12*bQsAki </B> > "), "{text}");
        assert!(text.contains("\nI0 -> I1\n}"), "{text}");
    }
}
