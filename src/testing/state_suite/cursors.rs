//! Pages with cursors, conditions and orders.

use super::*;

/// Every condition counts, whichever index finds the entries.
pub async fn conditions_are_combined_and_put_in_any_order(fixture: impl Fixture) {
    // More than is gathered from one index, so that both ways of finding are taken.
    let count = 3_000;
    let (_guard, state) = fixture.create().await;
    let pins: Vec<Pin> = (0..count)
        .map(|number| {
            let mut pin = pin(number);
            if number % 5 == 0 {
                pin.options.replication_factor_min = 1;
                pin.options.replication_factor_max = 2;
                pin.allocations = vec![peer(number % 2), peer(7)];
            }
            if number % 11 == 0 {
                pin.timestamp = None;
            }
            if number % 100 == 0 {
                pin.options.metadata.insert("rare".to_owned(), "yes".to_owned());
            }
            if number % 13 == 0 {
                pin.pin_type = PinType::Meta;
            }
            pin
        })
        .collect();
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    let rare = Selection::Metadata { key: "rare".to_owned(), value: "yes".to_owned() };
    let mut queries = combinations();
    for asked in &mut queries {
        asked.also.push(rare.clone());
    }
    let wide = Selection::NamePrefix("name".to_owned());
    queries.extend([
        StateQuery { peer: Some(peer(1)), ..query(wide.clone()) },
        StateQuery { peer: Some(peer(1)), order: Some(StateOrder::Created), ..query(wide.clone()) },
        StateQuery { peer: Some(peer(99)), descending: true, ..StateQuery::default() },
        StateQuery {
            types: [PinType::Meta].into_iter().collect(),
            order: Some(StateOrder::Cid),
            ..query(wide)
        },
    ]);
    for asked in queries {
        let expected = model.ask(&asked);
        assert_eq!(cids(&list(&*state, asked.clone()).await.unwrap()), cids(&expected), "{asked:?}");
        let paged = pages_of(&*state, &asked, |page| 1 + page * 37 % 400).await;
        assert_eq!(cids(&paged), cids(&expected), "{asked:?}");
    }
}

/// What a place means depends on the query.
pub async fn a_cursor_of_another_query_is_refused(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    let queries: Vec<_> = combinations().into_iter().take(12).collect();
    for (number, asked) in queries.iter().enumerate() {
        let StatePage { next: Some(next), .. } = state.page(asked.clone(), 1).await.unwrap() else {
            continue;
        };
        for (other_number, other) in queries.iter().enumerate() {
            let other = StateQuery { after: Some(next.clone()), ..other.clone() };
            let page = state.page(other.clone(), 1).await;
            let listed = list(&*state, other.clone()).await;
            if number == other_number {
                page.unwrap();
                listed.unwrap();
            } else {
                assert_eq!(page.unwrap_err().kind(), ErrorKind::InvalidInput, "{asked:?}: {other:?}");
                assert_eq!(listed.unwrap_err().kind(), ErrorKind::InvalidInput, "{asked:?}: {other:?}");
            }
        }
    }
}

/// A restart is nothing to who reads page by page.
pub async fn a_cursor_outlives_a_restart_and_a_replacement(fixture: impl Fixture) {
    let Opened { mut state, mut guard } = filled(&fixture, 0..60).await;
    let model = Model::of((0..60).map(pin));
    for asked in combinations().into_iter().step_by(7) {
        let whole = model.ask(&asked);
        let StatePage { pins, next } = state.page(asked.clone(), 3).await.unwrap();
        if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
            state = again;
        }
        replace(&*state, vec![Ok(model.0.values().cloned().collect())]).await.unwrap();
        let rest = match next {
            None => Vec::new(),
            next => pages_of(&*state, &StateQuery { after: next, ..asked.clone() }, |_| 5).await,
        };
        assert_eq!([pins, rest].concat(), whole, "{asked:?}");
    }
}
