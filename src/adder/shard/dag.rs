//! The nodes that list the blocks of a shard, and the shards of a DAG: dag-cbor maps from a decimal index to a link. Pure.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};

use crate::ipfs_connector::dag::CODEC_DAG_CBOR;
use crate::types::encoding::{cbor, put_cbor_head, put_cbor_link, put_cbor_text};
use crate::types::{Block, Cid};

/// Most links of one node; with more there is a node of nodes.
pub const NODE_LINKS_MAX: usize = 5984;

/// The nodes that list these links, the root first. Byte for byte those of the reference.
pub(super) fn nodes(links: &[Cid]) -> Vec<Block> {
    if links.len() <= NODE_LINKS_MAX {
        return vec![node(links)];
    }
    let mut leaves: Vec<Block> = links.chunks(NODE_LINKS_MAX).map(node).collect();
    if links.len().is_multiple_of(NODE_LINKS_MAX) {
        // The reference begins another leaf where the last one is full.
        leaves.push(node(&[]));
    }
    let cids: Vec<Cid> = leaves.iter().map(|leaf| leaf.cid).collect();
    let mut nodes = vec![node(&cids)];
    nodes.append(&mut leaves);
    nodes
}

/// Whether [`nodes`] of so many links is two levels deep.
pub(super) fn is_indirect(links: usize) -> bool {
    links > NODE_LINKS_MAX
}

fn node(links: &[Cid]) -> Block {
    let mut keys: Vec<(String, &Cid)> =
        links.iter().enumerate().map(|(index, cid)| (index.to_string(), cid)).collect();
    // The canonical order of maps: short keys first.
    keys.sort_by(|(one, _), (other, _)| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
    let mut bytes = Vec::new();
    put_cbor_head(&mut bytes, cbor::MAP, keys.len());
    for (key, cid) in keys {
        put_cbor_text(&mut bytes, &key);
        put_cbor_link(&mut bytes, cid);
    }
    let cid = Cid::new_v1(CODEC_DAG_CBOR, Code::Sha2_256.digest(&bytes));
    Block { cid, data: Bytes::from(bytes) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ipfs_connector::dag::links as read_links;

    fn cids(count: usize) -> Vec<Cid> {
        (0..count).map(|number| Block::raw(number.to_le_bytes().to_vec()).cid).collect()
    }

    #[test]
    fn the_node_is_the_reference_s() {
        let file: Value =
            serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
        let vectors: Vec<&Value> = file["vectors"]
            .as_array()
            .unwrap_or_else(|| file.as_array().unwrap())
            .iter()
            .filter(|vector| vector["name"].as_str().unwrap().starts_with("sharding/"))
            .collect();
        assert_eq!(vectors.len(), 1, "a vector that this test does not visit");
        for vector in vectors {
            // It has entries 0, 1 and 10; what lies between is nothing that a list could have.
            let decoded = vector["decoded"].as_object().unwrap();
            let bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
            let cid: Cid = decoded["cid"].as_str().unwrap().parse().unwrap();
            let of = |key: &str| decoded[key].as_str().unwrap().parse::<Cid>().unwrap();
            let listed: Vec<Cid> = read_links(&cid, &bytes).unwrap().iter().map(|link| link.cid).collect();
            assert_eq!(listed, [of("0"), of("1"), of("10")]);
            assert_eq!(Block::verified(cid, bytes.clone().into()).unwrap().cid, cid);

            // Our node of eleven links, with what the vector leaves out cut out.
            let links: Vec<Cid> =
                (0..11)
                    .map(|index: usize| {
                        if decoded.contains_key(&index.to_string()) {
                            of(&index.to_string())
                        } else {
                            of("0")
                        }
                    })
                    .collect();
            let [ours] = &nodes(&links)[..] else { panic!("one node") };
            let entry = |key: &str, cid: &Cid| {
                let mut bytes = Vec::new();
                put_cbor_text(&mut bytes, key);
                put_cbor_link(&mut bytes, cid);
                bytes
            };
            let mut cut = vec![0xa3];
            for key in ["0", "1", "10"] {
                let entry = entry(key, &of(key));
                assert!(ours.data.windows(entry.len()).any(|window| window == entry), "{key}");
                cut.extend(entry);
            }
            assert_eq!(cut, bytes);
        }
    }

    /// CIDs that the reference's REST vectors name for these lists of links.
    #[test]
    fn lists_of_shards_have_the_cids_of_the_reference() {
        let cid = |text: &str| text.parse::<Cid>().unwrap();
        let shards = [
            cid("bafyreiea44lxlcxym7zk4i7lhaawwq4cnzjkjgztmgzq7fgoutwtw2mohu"),
            cid("bafyreifnl2bsu2jrr2rhlzftlqijohowpwdethggkzbqj342cwnime76xy"),
        ];
        assert_eq!(nodes(&shards)[0].cid, cid("bafyreibkadc5aws42hzz467ae3gp7mz5a443eqj7lprjyu5dbuaow4kspe"));
        let other = [shards[0], cid("bafyreifaozucjmbnvbv5n2ahshc65kk52srfe3qrug2nwl2rghdxkzcyia")];
        assert_eq!(nodes(&other)[0].cid, cid("bafyreihhs44z5poongx4foqmi5srjjprxr6t32skehybhlmpdu22ojd4cm"));
    }

    /// What the reference makes of lists that need nodes of nodes: how many nodes, the root, the last one.
    #[test]
    fn nodes_of_nodes_have_the_cids_of_the_reference() {
        for (links, count, root, last) in [
            (
                5_985,
                3,
                "bafyreifqk64gn7vigahjs5oqj6zex3rvp4hy27by5qkgyuopqb3kjh2ugm",
                "bafyreihzqoxc47uellqcdykmttel4qvmvncagk5dwdi2smg3fwl2vvti5y",
            ),
            (
                11_968,
                4,
                "bafyreigt26uqghu5zswsmdonplmpwvun4buv2tdnzgyii3lfppynazdcdy",
                "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua",
            ),
            (
                12_000,
                4,
                "bafyreicdnwtj2lb2rpyhwu6lnx62x3ypdl4xpbwgn2uy75v5yvm2olxkb4",
                "bafyreicoxnuqoxj7gb4icsjm552s6afjlzj5u7ctolrfcbfyw7uo3rahiq",
            ),
        ] {
            let nodes = nodes(&cids(links));
            let ends = (nodes[0].cid.to_string(), nodes[nodes.len() - 1].cid.to_string());
            assert_eq!((nodes.len(), ends), (count, (root.to_owned(), last.to_owned())), "{links}");
        }
    }

    #[test]
    fn many_links_are_listed_by_nodes_of_nodes() {
        let sizes = |count: usize| -> Vec<usize> {
            nodes(&cids(count))
                .iter()
                .map(|node| {
                    Block::verified(node.cid, node.data.clone()).unwrap();
                    read_links(&node.cid, &node.data).unwrap().len()
                })
                .collect()
        };
        assert_eq!(sizes(0), [0]);
        assert_eq!(sizes(NODE_LINKS_MAX), [NODE_LINKS_MAX]);
        assert_eq!(sizes(NODE_LINKS_MAX + 1), [2, NODE_LINKS_MAX, 1]);
        assert_eq!(sizes(2 * NODE_LINKS_MAX), [3, NODE_LINKS_MAX, NODE_LINKS_MAX, 0]);
        assert!(!is_indirect(NODE_LINKS_MAX) && is_indirect(NODE_LINKS_MAX + 1));
    }
}
