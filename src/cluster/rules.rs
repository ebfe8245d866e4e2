//! What may be pinned and how, decided without asking anybody: the reference's checks in its order, with its texts.

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Pin, PinMode, PinOptions, PinType, ReplicationFactor, Timestamp};

/// The text by which callers and clients know an absent pin.
pub(super) const NOT_PINNED: &str = "pin is not part of the pinset";

/// Factors for pins that do not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct DefaultFactors {
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A pin that passed every check and only lacks its allocations.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) pin: Pin,
    pub(super) factor: ReplicationFactor,
}

/// Checks a pin against what is there and fills in defaults and the time.
pub(super) fn prepare(
    mut pin: Pin,
    existing: Option<&Pin>,
    defaults: DefaultFactors,
    now: Timestamp,
) -> Result<Prepared> {
    // Each factor takes its default on its own, as in the reference, so that min 1 on a default of -1/-1 is an error.
    let options = &mut pin.options;
    if options.replication_factor_min == 0 {
        options.replication_factor_min = defaults.min;
    }
    if options.replication_factor_max == 0 {
        options.replication_factor_max = defaults.max;
    }
    let factor = ReplicationFactor::new(options.replication_factor_min, options.replication_factor_max)?;
    if factor == ReplicationFactor::Everywhere {
        pin.allocations.clear();
    }
    if options.expire_at.is_some_and(|at| at < now) {
        return Err(Error::invalid_input("pin.ExpireAt set before current time"));
    }
    if let Some(existing) = existing {
        check_repin(&pin, existing)?;
    }
    pin.timestamp = Some(now);
    Ok(Prepared { pin, factor })
}

fn check_repin(pin: &Pin, existing: &Pin) -> Result<()> {
    let conflict = |text: String| Err(Error::new(ErrorKind::Conflict, text));
    if existing.pin_type != pin.pin_type {
        return conflict(format!(
            "cannot repin CID with different tracking method, clear state with pin rm to proceed. New: {}. Was: {}",
            pin.pin_type, existing.pin_type
        ));
    }
    if existing.mode() == PinMode::Recursive && pin.mode() != PinMode::Recursive {
        return conflict(format!(
            "cannot repin a CID which is already pinned in recursive mode (new pin is pinned as {}). Unpin it first.",
            pin.mode()
        ));
    }
    check_type(pin)
}

/// Whether depth, reference and allocations fit the type.
fn check_type(pin: &Pin) -> Result<()> {
    let wrong = match pin.pin_type {
        PinType::Data if pin.reference.is_some() => "data pins should not reference other pins",
        // Two where the list of blocks is two levels deep. The reference says so too, and then never pins it that way.
        PinType::Shard if !matches!(pin.max_depth, 1 | 2) => "must pin shards go depth 1",
        PinType::ClusterDag if pin.max_depth != 0 => "must pin roots directly",
        PinType::ClusterDag if pin.reference.is_none() => "clusterDAG pins should reference a Meta pin",
        PinType::Meta if !pin.allocations.is_empty() => "meta pin should not specify allocations",
        PinType::Meta if pin.reference.is_none() => "metaPins should reference a ClusterDAG",
        PinType::Data | PinType::Shard | PinType::ClusterDag | PinType::Meta => return Ok(()),
    };
    Err(Error::invalid_input(wrong))
}

/// A pin that continues `from`: the same but for its CID and what the caller says anew.
pub(super) fn continue_from(from: &Pin, to: Cid, options: &PinOptions, now: Timestamp) -> Result<Pin> {
    if from.pin_type != PinType::Data {
        return Err(Error::new(ErrorKind::Conflict, "this pin type cannot be updated"));
    }
    let mut pin = from.clone();
    pin.cid = to;
    pin.timestamp = Some(now);
    pin.options.pin_update = Some(from.cid);
    if !options.name.is_empty() {
        pin.options.name.clone_from(&options.name);
    }
    if let Some(at) = options.expire_at.filter(|at| *at > now) {
        pin.options.expire_at = Some(at);
    }
    Ok(pin)
}

/// Whether a pin may be removed by name; shards and their DAG go with their root.
pub(super) fn check_unpin(existing: &Pin) -> Result<()> {
    match existing.pin_type {
        PinType::Data | PinType::Meta => Ok(()),
        PinType::Shard => Err(Error::new(
            ErrorKind::Conflict,
            "cannot unpin a shard directly. Unpin content root CID instead",
        )),
        PinType::ClusterDag => Err(Error::new(
            ErrorKind::Conflict,
            "cannot unpin a Cluster DAG directly. Unpin content root CID instead",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    const EVERYWHERE: DefaultFactors = DefaultFactors { min: -1, max: -1 };

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_700_000_000)
    }

    fn cid(n: u8) -> Cid {
        Block::raw(vec![n]).cid
    }

    fn pin(options: PinOptions) -> Pin {
        Pin::new(cid(1), options)
    }

    fn refused(pin: Pin, existing: Option<&Pin>) -> String {
        prepare(pin, existing, EVERYWHERE, now()).unwrap_err().to_string()
    }

    #[test]
    fn each_factor_takes_its_default_on_its_own() {
        let options = |min, max| PinOptions {
            replication_factor_min: min,
            replication_factor_max: max,
            ..PinOptions::default()
        };
        let prepared = prepare(pin(options(0, 0)), None, DefaultFactors { min: 2, max: 3 }, now()).unwrap();
        assert_eq!(prepared.factor.as_pair(), (2, 3));
        assert_eq!(refused(pin(options(1, 0)), None), "cluster.replication_factor_min is larger than max");
        assert_eq!(
            refused(pin(options(0, 1)), None),
            "cluster.replication_factor_min and max must be -1 when one of them is"
        );
    }

    #[test]
    fn a_pin_everywhere_has_no_allocations() {
        let mut asked = pin(PinOptions::default());
        asked.allocations = vec![crate::types::PeerId::random()];
        assert!(prepare(asked, None, EVERYWHERE, now()).unwrap().pin.allocations.is_empty());
    }

    #[test]
    fn an_expiry_in_the_past_is_refused() {
        let options =
            PinOptions { expire_at: Some(Timestamp::from_unix_seconds(1)), ..PinOptions::default() };
        assert_eq!(refused(pin(options), None), "pin.ExpireAt set before current time");
    }

    #[test]
    fn recursive_does_not_become_direct_but_direct_becomes_recursive() {
        let recursive = pin(PinOptions::default());
        let direct = pin(PinOptions { mode: PinMode::Direct, ..PinOptions::default() });
        assert_eq!(
            refused(direct.clone(), Some(&recursive)),
            "cannot repin a CID which is already pinned in recursive mode (new pin is pinned as direct). Unpin it first."
        );
        assert!(prepare(recursive, Some(&direct), EVERYWHERE, now()).is_ok());
    }

    #[test]
    fn another_type_is_refused() {
        let mut meta = pin(PinOptions::default());
        meta.pin_type = PinType::Meta;
        assert_eq!(
            refused(pin(PinOptions::default()), Some(&meta)),
            "cannot repin CID with different tracking method, clear state with pin rm to proceed. New: pin. Was: meta-pin"
        );
    }

    #[test]
    fn types_are_checked_only_when_something_is_pinned_already() {
        let mut odd = pin(PinOptions::default());
        odd.reference = Some(cid(2));
        assert!(prepare(odd.clone(), None, EVERYWHERE, now()).is_ok());
        assert_eq!(
            refused(odd, Some(&pin(PinOptions::default()))),
            "data pins should not reference other pins"
        );
    }

    #[test]
    fn an_update_copies_everything_but_what_is_said_anew() {
        let mut from = pin(PinOptions { name: "old".into(), ..PinOptions::default() });
        from.options.metadata.insert("k".into(), "v".into());
        let past = PinOptions { expire_at: Some(Timestamp::from_unix_seconds(1)), ..PinOptions::default() };
        let updated = continue_from(&from, cid(2), &past, now()).unwrap();
        assert_eq!((updated.cid, updated.options.pin_update), (cid(2), Some(cid(1))));
        assert_eq!((updated.options.name.as_str(), updated.options.expire_at), ("old", None));
        assert_eq!(updated.options.metadata, from.options.metadata);
        from.pin_type = PinType::Shard;
        assert_eq!(
            continue_from(&from, cid(2), &past, now()).unwrap_err().to_string(),
            "this pin type cannot be updated"
        );
    }

    #[test]
    fn shards_are_not_removed_by_name() {
        let mut shard = pin(PinOptions::default());
        assert!(check_unpin(&shard).is_ok());
        shard.pin_type = PinType::Shard;
        assert!(check_unpin(&shard).unwrap_err().to_string().starts_with("cannot unpin a shard directly"));
    }
}
