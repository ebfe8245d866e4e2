//! Tests: the wire vectors, and mutations of them.

use serde::Deserialize;
use serde_json::Value;

use super::delta::Delta;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) hex: String,
    pub(super) decoded: Value,
}

impl Vector {
    pub(super) fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.hex).unwrap()
    }
}

#[derive(Deserialize)]
struct File {
    vectors: Vec<Value>,
}

/// The vectors whose name starts like this.
pub(super) fn group(prefix: &str) -> Vec<Vector> {
    let file: File = serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
    let named = file
        .vectors
        .into_iter()
        .filter(|vector| vector["name"].as_str().is_some_and(|name| name.starts_with(prefix)));
    named.map(|vector| serde_json::from_value(vector).unwrap()).collect()
}

/// The bytes of one.
pub(super) fn bytes(name: &str) -> Vec<u8> {
    group(name).into_iter().find(|vector| vector.name == name).unwrap().bytes()
}

/// The delta of one.
pub(super) fn delta(name: &str) -> Delta {
    Delta::decode(bytes(name).into()).unwrap()
}

/// Mutations for each decoder.
const MUTATIONS: usize = 10_000;

/// Hands 10,000 mutations of vectors to a decoder: the same ones in every run.
pub(super) fn mutate(which: impl Fn(&str) -> bool, decode: impl FnMut(Vec<u8>)) {
    let seeds = group("crdt/").into_iter().filter(|vector| which(&vector.name));
    mutate_bytes(seeds.map(|vector| vector.bytes()).collect(), decode);
}

/// The same, of these.
pub(super) fn mutate_bytes(seeds: Vec<Vec<u8>>, mut decode: impl FnMut(Vec<u8>)) {
    assert!(!seeds.is_empty());
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for number in 0..MUTATIONS {
        let mut bytes = seeds[number % seeds.len()].clone();
        for _ in 0..=random(4) {
            let place = random(bytes.len());
            match random(6) {
                0 if !bytes.is_empty() => bytes[place] ^= 1 << random(8),
                1 if !bytes.is_empty() => bytes[place] = random(256) as u8,
                2 => bytes.truncate(place),
                3 => bytes.insert(place, random(256) as u8),
                4 if !bytes.is_empty() => drop(bytes.remove(place)),
                _ => {
                    let other = &seeds[random(seeds.len())];
                    let from = random(other.len());
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        decode(bytes);
    }
}
