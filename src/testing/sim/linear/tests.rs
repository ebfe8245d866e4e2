use std::collections::HashSet;

use super::*;
use crate::testing::random::Random;

fn happened(call: Call, began: u64, ended: impl Into<Option<u64>>) -> Happened {
    Happened { call, began, ended: ended.into() }
}

#[test]
fn what_could_have_happened_is_found() {
    let good = [
        happened(Call::Pin(1), 1, 4),
        happened(Call::Read(None), 2, 3),
        happened(Call::Read(Some(1)), 5, 6),
        happened(Call::Pin(2), 7, None),
        happened(Call::Read(Some(1)), 8, 9),
        happened(Call::Unpin(Some(Some(2))), 10, 11),
        happened(Call::Read(None), 12, 13),
    ];
    assert_eq!(check(&good), Verdict::Linearizable);
    assert_eq!(check(&[]), Verdict::Linearizable);
    let expired = [happened(Call::PinThatExpires(1), 1, 2), happened(Call::Read(None), 3, 4)];
    assert_eq!(check(&expired), Verdict::Linearizable);
    let instead = [
        happened(Call::Pin(1), 1, 2),
        happened(Call::PinThatExpires(2), 3, None),
        happened(Call::Read(None), 4, 5),
    ];
    assert_eq!(check(&instead), Verdict::Linearizable);
}

#[test]
fn what_could_not_have_happened_is_found() {
    let stale = [happened(Call::Pin(1), 1, 2), happened(Call::Read(None), 3, 4)];
    let lost =
        [happened(Call::Pin(1), 1, 2), happened(Call::Pin(2), 3, 4), happened(Call::Read(Some(1)), 5, 6)];
    let twice = [
        happened(Call::Pin(1), 1, 2),
        happened(Call::Unpin(Some(Some(1))), 3, 4),
        happened(Call::Read(Some(1)), 5, 6),
    ];
    let removed_twice = [
        happened(Call::Pin(1), 1, 2),
        happened(Call::Unpin(Some(Some(1))), 3, 5),
        happened(Call::Unpin(Some(Some(1))), 4, 6),
    ];
    let backwards = [
        happened(Call::Pin(1), 1, None),
        happened(Call::Read(Some(1)), 2, 3),
        happened(Call::Read(None), 4, 5),
    ];
    let too_early = [happened(Call::Read(Some(1)), 1, 2), happened(Call::Pin(1), 3, 4)];
    let from_nowhere = [happened(Call::Read(Some(1)), 1, 2)];
    let another_expired = [
        happened(Call::PinThatExpires(1), 1, 2),
        happened(Call::Pin(2), 3, 4),
        happened(Call::Read(None), 5, 6),
    ];
    let interleaved = [
        happened(Call::Pin(1), 1, 2),
        happened(Call::Pin(2), 3, 10),
        happened(Call::Read(Some(2)), 4, 5),
        happened(Call::Read(Some(1)), 6, 7),
    ];
    for bad in [
        &stale[..],
        &lost,
        &twice,
        &removed_twice,
        &backwards,
        &too_early,
        &from_nowhere,
        &another_expired,
        &interleaved,
    ] {
        assert_eq!(check(bad), Verdict::Impossible, "{bad:?}");
    }
}

/// Hundreds of writes that may have happened at any time, and a dozen removals, of which enough have to.
#[test]
fn many_writes_that_nobody_knows_of_are_no_trouble() {
    let unknown = (0..200).map(|name| happened(Call::Pin(name), name, None));
    let unpins = (0..12).map(|number| happened(Call::Unpin(None), number, None));
    let mut history: Vec<_> = unknown.chain(unpins).collect();
    for name in 0..60 {
        let began = 1_000 + 10 * name;
        history.push(happened(Call::Read(Some(name)), began, began + 1));
        if name % 5 == 0 {
            history.push(happened(Call::Read(None), began + 2, began + 3));
        }
    }
    assert_eq!(check(&history), Verdict::Linearizable);
    // One more than there are removals.
    history.push(happened(Call::Read(Some(199)), 5_000, 5_001));
    history.push(happened(Call::Read(None), 5_002, 5_003));
    assert_eq!(check(&history), Verdict::Impossible);
}

/// All of them at once, in whatever order, read in another one: any of the names last is good, one of them twice is not.
#[test]
fn many_writes_at_the_same_time_are_no_trouble() {
    let mut history: Vec<_> = (0..60).map(|name| happened(Call::Pin(name), name, 1_000 + name)).collect();
    history.extend((0..30).map(|name| happened(Call::Read(Some(2 * name)), 100 + name, 2_000 + name)));
    history.extend((0..30).map(|number| happened(Call::Unpin(None), 200 + number, 3_000 + number)));
    history.push(happened(Call::Read(Some(17)), 4_000, 4_001));
    assert_eq!(check(&history), Verdict::Linearizable);
    history.push(happened(Call::Read(Some(18)), 4_002, 4_003));
    assert_eq!(check(&history), Verdict::Impossible);
}

/// What a call makes of a value, if it could have happened then.
fn step(call: Call, value: Value) -> Option<Value> {
    match call {
        Call::Pin(name) | Call::PinThatExpires(name) => Some(Some(name)),
        Call::Unpin(Some(was)) if was != value => None,
        Call::Unpin(_) => Some(None),
        Call::Read(was) => (was == value).then_some(value),
    }
}

/// Wing and Gong's search through all orders.
fn search(history: &[Happened]) -> Verdict {
    let mut looked = HashSet::new();
    let mut open = vec![(0_u64, None)];
    while let Some((done, value)) = open.pop() {
        if !looked.insert((done, value)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        let Some(first_end) = left().filter_map(|(_, happened)| happened.ended).min() else {
            return Verdict::Linearizable;
        };
        for (index, happened) in left().filter(|(_, happened)| happened.began < first_end) {
            let call = match happened.ended {
                Some(_) => happened.call,
                None if matches!(happened.call, Call::Unpin(_)) => Call::Unpin(None),
                None => happened.call,
            };
            if happened.ended.is_none() && matches!(call, Call::Read(_)) {
                continue;
            }
            if let Some(after) = step(call, value) {
                open.push((done | 1 << index, after));
            }
        }
        // It expires at any moment after.
        if let Some(name) = value
            && history.iter().any(|happened| happened.call == Call::PinThatExpires(name))
        {
            open.push((done, None));
        }
    }
    Verdict::Impossible
}

/// What callers might have seen: of one pin in one place, but for some lies.
fn any_history(random: &mut Random) -> Vec<Happened> {
    let count = random.between(1, 9);
    let wide = *random.one_of(&[3, 10, 40, 100]);
    let (mut value, mut expires, mut history) = (None, false, Vec::new());
    for name in 0..count as u64 {
        if expires && random.percent(30) {
            value = None;
        }
        let at = 1_000 + 10 * name;
        let call = match random.below(8) {
            0..3 => Call::Pin(name),
            3 => Call::PinThatExpires(name),
            4 => Call::Unpin(None),
            5 => Call::Unpin(Some(value)),
            _ => Call::Read(value),
        };
        let is_unknown = random.percent(20);
        if !is_unknown || random.percent(50) {
            value = step(call, value).unwrap_or(value);
            expires = matches!(call, Call::PinThatExpires(_)) || expires && matches!(call, Call::Read(_));
        }
        let call = match call {
            Call::Read(_) if random.percent(30) => {
                Call::Read(random.percent(60).then(|| random.below(count) as u64))
            }
            call => call,
        };
        let (began, ended) = (at - random.below(wide) as u64, at + 1 + random.below(wide) as u64);
        // No two moments are the same.
        history.push(happened(call, 32 * began + name, (!is_unknown).then_some(32 * ended + 16 + name)));
    }
    history
}

#[test]
fn it_says_what_a_search_through_all_orders_says() {
    let random = &mut Random::new(7);
    let mut verdicts = [0; 2];
    for _ in 0..40_000 {
        let history = any_history(random);
        let expected = search(&history);
        assert_eq!(check(&history), expected, "{history:#?}");
        verdicts[usize::from(expected == Verdict::Impossible)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 3_000), "{verdicts:?}");
}
