use proptest::prelude::*;

use super::*;

/// Bytes that look random and are the same each time.
fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn cut(chunker: Chunker, pieces: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut cutter = Cutter::new(chunker, &Arc::default());
    let mut chunks = Vec::new();
    for piece in pieces {
        cutter.feed(piece, &mut chunks).unwrap();
    }
    chunks.extend(cutter.finish());
    chunks
}

#[test]
fn a_chunk_within_one_piece_is_not_copied() {
    let data = noise(1000, 1);
    let chunks = cut(Chunker::Size(300), [data.clone()]);
    assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [300, 300, 300, 100]);
    assert_eq!(chunks[1].as_ptr(), data[300..].as_ptr());
    assert_eq!(chunks[3].as_ptr(), data[900..].as_ptr());
}

#[test]
fn a_file_ends_with_its_last_full_chunk() {
    assert_eq!(cut(Chunker::Size(10), [noise(20, 1)]).len(), 2);
    assert!(cut(Chunker::Size(10), []).is_empty());
}

#[test]
fn a_rabin_chunk_without_end_is_refused_before_it_fills_the_memory() {
    let mut cutter = Cutter::new(Chunker::parse("rabin-16").unwrap(), &Arc::default());
    let mut chunks = Vec::new();
    let piece = noise(1 << 20, 1);
    cutter.feed(piece.clone(), &mut chunks).unwrap();
    cutter.feed(piece.clone(), &mut chunks).unwrap();
    let refused = cutter.feed(piece, &mut chunks).unwrap_err();
    assert_eq!(refused.to_string(), "object size limit exceeded");
}

#[test]
fn buzhash_keeps_to_its_sizes() {
    let chunks = cut(Chunker::Buzhash, [noise(8 << 20, 3)]);
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| (128 << 10..=512 << 10).contains(&chunk.len())));
    assert!(others.iter().any(|chunk| chunk.len() != 512 << 10), "no end was found");
    assert!(last.len() <= 512 << 10);
    let zeroes = cut(Chunker::Buzhash, [Bytes::from(vec![0; 1 << 20])]);
    assert!(zeroes.iter().map(Bytes::len).sum::<usize>() == 1 << 20);
}

fn chunkers() -> impl Strategy<Value = Chunker> {
    prop_oneof![
        (1_usize..5000).prop_map(Chunker::Size),
        (16_u64..100, 1_u64..2000, 1_u64..2000).prop_map(|(min, more, most)| Chunker::Rabin {
            min,
            average: min + more,
            max: min + more + most
        }),
        Just(Chunker::Buzhash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_no_difference(
        chunker in chunkers(),
        seed in any::<u64>(),
        len in 0_usize..700_000,
        pieces in proptest::collection::vec(prop_oneof![1_usize..40, 1_usize..200_000], 1..50),
    ) {
        let data = noise(len, seed);
        let whole = cut(chunker, [data.clone()]);
        prop_assert_eq!(whole.concat(), &data[..]);
        let mut rest = data;
        let mut sizes = pieces.into_iter().cycle();
        let mut split = Vec::new();
        while !rest.is_empty() {
            // The tail in one piece keeps tiny pieces from taking all the time.
            let size = if split.len() > 1000 { rest.len() } else { sizes.next().unwrap_or(1) };
            split.push(rest.split_to(size.min(rest.len())));
        }
        prop_assert_eq!(whole, cut(chunker, split));
    }
}

#[test]
fn the_memory_of_a_chunk_in_pieces_is_used_again_when_nobody_has_it() {
    let mut cutter = Cutter::new(Chunker::parse("size-100").unwrap(), &Arc::default());
    let mut next = |byte: u8| {
        let mut chunks = Vec::new();
        cutter.feed(vec![byte; 60].into(), &mut chunks).unwrap();
        cutter.feed(vec![byte; 40].into(), &mut chunks).unwrap();
        chunks.pop().unwrap()
    };
    let first = next(1);
    let part = first.slice(10..20);
    let at = first.as_ptr();
    drop(first);
    let second = next(2);
    assert_ne!(second.as_ptr(), at, "somebody has a part of it");
    assert_eq!((&part[..], &second[..]), (&[1; 10][..], &[2; 100][..]));
    drop(part);
    let third = next(3);
    assert_eq!(third.as_ptr(), at);
    assert_eq!(third, vec![3; 100]);
}
