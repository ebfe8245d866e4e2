//! Listings: pages, types, indexes, and going on after an entry.

use super::*;

/// Pages are how listings stay cheap; an empty one would look like the end.
pub async fn pages_are_full_but_never_too_long_or_empty(fixture: impl Fixture) {
    let count = PAGE_ITEMS_MAX * 2 + 500;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count as u64).await;
    let everything = Selection::Created { from: None, to: None };
    for selection in [Selection::All, Selection::NamePrefix("name".to_owned()), everything] {
        let pages: Vec<Vec<Pin>> = state.list(query(selection.clone())).try_collect().await.unwrap();
        let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), count, "{selection:?}");
        assert!(sizes.iter().all(|size| (1..=PAGE_ITEMS_MAX).contains(size)), "{selection:?}: {sizes:?}");
        assert!(sizes.len() <= 6, "{selection:?}: {sizes:?}");
    }
    // A whole number of pages must not end in an empty one.
    apply(
        &*state,
        (2 * PAGE_ITEMS_MAX..count).map(|number| PinOperation::Unpin(cid(number as u64))).collect(),
    )
    .await;
    assert_eq!(list(&*state, StateQuery::default()).await.unwrap().len(), 2 * PAGE_ITEMS_MAX);
}

/// Whatever is selected, and however rare the type is.
pub async fn only_the_asked_types_are_listed(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let kind = |number: u64| match number {
        3_000 => PinType::Meta,
        number if number % 2 == 0 => PinType::Shard,
        _ => PinType::Data,
    };
    let pins: Vec<Pin> = (0..3_200).map(|number| Pin { pin_type: kind(number), ..pin(number) }).collect();
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    for types in [vec![PinType::Meta], vec![PinType::Data, PinType::Meta], vec![PinType::ClusterDag]] {
        for selection in [Selection::All, Selection::NamePrefix("name".to_owned())] {
            let filter: PinTypeFilter = types.iter().copied().collect();
            let asked = StateQuery { types: filter, ..query(selection.clone()) };
            let listed = list(&*state, asked).await.unwrap();
            let mut expected = model.list(&selection);
            expected.retain(|pin| types.contains(&pin.pin_type));
            assert_eq!(cids(&listed), cids(&expected), "{types:?} {selection:?}");
        }
    }
}

/// Old names, metadata and times find it no more.
pub async fn a_changed_pin_is_found_by_what_it_is_now(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    let old = pin(0);
    let mut new = old.clone();
    new.options.name = "new".to_owned();
    new.options.metadata = [("new".to_owned(), "pair".to_owned())].into();
    new.timestamp = Some(second(49));
    apply(&*state, vec![put(&new)]).await;
    assert_same(&*state, &Model::of([new])).await;
    for selection in [
        Selection::Name(old.options.name.clone()),
        Selection::NamePrefix(old.options.name),
        Selection::Metadata { key: "group".to_owned(), value: "0".to_owned() },
        Selection::Created { from: None, to: Some(second(49)) },
    ] {
        assert_eq!(list(&*state, query(selection.clone())).await.unwrap(), [], "{selection:?}");
    }
}

/// Names are not limited, keys of stores are.
pub async fn names_are_told_apart_however_long_they_are(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let base = "x".repeat(2 * NAME_ORDER_BYTES_MAX);
    let named = |number: u64, name: String| {
        let options = PinOptions { name, ..PinOptions::default() };
        Pin::new(cid(number), options)
    };
    let pins = [
        named(0, base.clone()),
        named(1, format!("{base}a")),
        named(2, format!("{base}b")),
        named(3, format!("{base}ab")),
        named(4, base[..NAME_ORDER_BYTES_MAX].to_owned()),
        named(5, base[..NAME_ORDER_BYTES_MAX + 1].to_owned()),
        named(6, format!("{base}a")),
        named(7, "\0".repeat(NAME_ORDER_BYTES_MAX)),
    ];
    apply(&*state, pins.iter().map(put).collect()).await;
    for pin in &pins {
        let name = &pin.options.name;
        for selection in [Selection::Name(name.clone()), Selection::NamePrefix(name.clone())] {
            let mut listed = cids(&list(&*state, query(selection.clone())).await.unwrap());
            let mut expected =
                cids(&pins.iter().filter(|pin| matches(&selection, pin)).cloned().collect::<Vec<_>>());
            listed.sort();
            expected.sort();
            assert_eq!(listed, expected, "a name of {} bytes", name.len());
        }
    }
    let shared = Selection::NamePrefix("x".to_owned());
    let whole = list(&*state, query(shared.clone())).await.unwrap();
    assert_eq!(whole.len(), 7);
    assert!(
        whole.is_sorted_by_key(|pin| pin.options.name[..NAME_ORDER_BYTES_MAX].to_owned()),
        "sorted by what takes part in the order"
    );
    for descending in [false, true] {
        let asked = StateQuery { descending, ..query(shared.clone()) };
        let mut paged = pages_of(&*state, &asked, |_| 1).await;
        if descending {
            paged.reverse();
        }
        assert_eq!(paged, whole);
    }
}

/// `("ab", "c")` is not `("a", "bc")`, and a value is compared whole.
pub async fn metadata_is_found_by_key_and_value_together(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let long = "v".repeat(10_000);
    let pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc", ""),
        ("", "abc"),
        ("a", "\0bc"),
        ("a\0", "bc"),
        ("long", &long),
        ("long", &long[1..]),
    ];
    let mut model = Model::default();
    for (number, (key, value)) in pairs.iter().enumerate() {
        let mut pin = Pin::new(cid(number as u64), PinOptions::default());
        pin.options.metadata.insert((*key).to_owned(), (*value).to_owned());
        pin.options.metadata.insert("shared".to_owned(), "by all".to_owned());
        apply(&*state, vec![put(&pin)]).await;
        model.pin(pin);
    }
    assert_same(&*state, &model).await;
    for (key, value) in [("a", "b"), ("ab", ""), ("long", "v"), ("shared", "by")] {
        let selection = Selection::Metadata { key: key.to_owned(), value: value.to_owned() };
        assert_eq!(list(&*state, query(selection)).await.unwrap(), []);
    }
}

/// The start belongs to a range, the end does not, fractions count, and a pin without a time is in none.
pub async fn times_are_found_by_their_range(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut pins = Vec::new();
    for number in 0..10 {
        let timestamp = (number > 0).then(|| second(number as i64 / 2));
        pins.push(Pin { timestamp, ..pin(number) });
    }
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    let half = Duration::from_millis(500);
    let bounds = [0, 1, 2, 5, 9].map(second).into_iter().flat_map(|time| [time, time + half]).map(Some);
    let bounds: Vec<_> = bounds.chain([None]).collect();
    for from in &bounds {
        for to in &bounds {
            let selection = Selection::Created { from: *from, to: *to };
            let listed = list(&*state, query(selection.clone())).await.unwrap();
            assert_eq!(cids(&listed), cids(&model.list(&selection)), "{selection:?}");
        }
    }
}

/// An end before the start is an empty answer.
pub async fn impossible_ranges_hold_nothing(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..20).await;
    for (from, to) in [(second(10), second(5)), (second(5), second(5))] {
        let selection = Selection::Created { from: Some(from), to: Some(to) };
        assert_eq!(list(&*state, query(selection)).await.unwrap(), []);
    }
}

/// The rest after any entry is the rest of the whole, in every order and both directions.
pub async fn a_listing_goes_on_after_any_entry(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    let model = Model::of((0..60).map(pin));
    for asked in combinations() {
        let whole = model.ask(&asked);
        let mut rest = StateQuery { after: None, ..asked.clone() };
        for index in 0..=whole.len() {
            assert_eq!(list(&*state, rest.clone()).await.unwrap(), whole[index..], "{asked:?} after {index}");
            let StatePage { pins, next } = state.page(rest.clone(), 1).await.unwrap();
            assert_eq!(pins, whole[index..].iter().take(1).cloned().collect::<Vec<_>>(), "{asked:?}");
            // Its text is the same cursor.
            rest.after = next.map(|next| next.to_string().parse().unwrap());
            if rest.after.is_none() {
                assert!(index + 1 >= whole.len(), "{asked:?} ended after {index}");
                break;
            }
        }
    }
}

/// In every order the place counts, not the entry that was there.
pub async fn a_listing_goes_on_after_an_entry_that_is_gone(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    for asked in combinations() {
        let whole = list(&*state, asked.clone()).await.unwrap();
        if whole.len() < 2 {
            continue;
        }
        let half = whole.len() / 2;
        let StatePage { pins, next } = state.page(asked.clone(), half).await.unwrap();
        assert_eq!(pins, whole[..half], "{asked:?}");
        let gone = pins.last().unwrap().clone();
        // Gone, or somewhere else in the order: the rest is the same.
        let mut moved = gone.clone();
        moved.options = PinOptions::default();
        moved.timestamp = None;
        for change in [put(&moved), PinOperation::Unpin(gone.cid)] {
            apply(&*state, vec![change]).await;
            let rest = StateQuery { after: next.clone(), ..asked.clone() };
            let rest = pages_of(&*state, &rest, |_| 7).await;
            let rest: Vec<_> = rest.into_iter().filter(|pin| pin.cid != gone.cid).collect();
            assert_eq!(cids(&rest), cids(&whole[half..]), "{asked:?}");
        }
        apply(&*state, vec![put(&gone)]).await;
    }
}
