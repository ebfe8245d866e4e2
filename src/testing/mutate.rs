//! Broken input made from good: what decoders of bytes from other peers are fed with.

use std::ops::Range;

use crate::random::SplitMix64;

/// Bytes that lengths, counts and kinds are made of in most formats.
const TELLING_BYTES: [u8; 14] =
    [0x00, 0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xc0, 0xc1, 0xdb, 0xdd, 0xdf, 0xfe, 0xff];

/// Changes bytes as a seed says: the same seed and the same calls give the same bytes.
#[derive(Clone, Debug)]
pub struct Mutator {
    random: SplitMix64,
}

impl Mutator {
    /// A mutator of a seed; any will do.
    pub fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed) }
    }

    /// The next random number.
    pub fn number(&mut self) -> u64 {
        self.random.next()
    }

    /// A random number below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.number() % limit as u64) as usize }
    }

    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(64) + 1)
    }

    /// `bytes` with one to four things done to them: bits flipped, bytes replaced by telling ones, numbers made huge,
    /// parts cut, doubled, moved, taken from `other`, the end missing. May by chance be what it was.
    pub fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut mutated = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let length = mutated.len();
            let at = self.below(length);
            match self.below(9) {
                0 if length > 0 => mutated[at] ^= 1 << self.below(8),
                1 if length > 0 => mutated[at] = TELLING_BYTES[self.below(TELLING_BYTES.len())],
                2 if length > 0 => mutated[at] = self.number() as u8,
                3 => mutated.truncate(at),
                4 => drop(mutated.drain(self.range(length))),
                5 => {
                    let doubled = mutated[self.range(length)].to_vec();
                    mutated.splice(at..at, doubled);
                }
                6 => {
                    let foreign = other[self.range(other.len())].to_vec();
                    mutated.splice(at..at, foreign);
                }
                7 => {
                    let end = length.min(at + 1 + self.below(8));
                    mutated[at..end].fill(0xff);
                }
                _ => mutated.insert(at, TELLING_BYTES[self.below(TELLING_BYTES.len())]),
            }
        }
        mutated
    }
}

/// Feeds `check` with `count` mutations in all of the originals in turn, and with every one of them cut off at each of
/// its first 1,024 bytes. `check` panics when it is not content.
pub fn for_each_mutation(seed: u64, originals: &[Vec<u8>], count: usize, mut check: impl FnMut(&[u8])) {
    const CUTS_MAX: usize = 1024;
    let mut mutator = Mutator::new(seed);
    for original in originals {
        (0..original.len().min(CUTS_MAX)).for_each(|length| check(&original[..length]));
    }
    for index in 0..if originals.is_empty() { 0 } else { count } {
        let other = mutator.below(originals.len());
        check(&mutator.mutate(&originals[index % originals.len()], &originals[other]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_most_mutations_differ_from_what_they_were() {
        let originals = vec![b"some bytes that mean something".to_vec(), Vec::new()];
        let all = |seed| {
            let mut all = Vec::new();
            for_each_mutation(seed, &originals, 1_000, |bytes| all.push(bytes.to_vec()));
            all
        };
        let mutated = all(1);
        assert_eq!(mutated.len(), originals[0].len() + 1_000);
        assert_eq!(mutated, all(1));
        assert_ne!(mutated, all(2));
        let same = mutated.iter().filter(|bytes| originals.contains(bytes)).count();
        assert!(same < 200, "{same} did not change");
        for_each_mutation(1, &[], 10, |_| panic!("nothing to mutate"));
    }
}
