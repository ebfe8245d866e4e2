//! Sizes and times for people, in the words of the reference.

use ipfs_cluster::types::Timestamp;

const SECOND: u128 = 1_000_000_000;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;
const DAY: u128 = 24 * HOUR;
const WEEK: u128 = 7 * DAY;
const MONTH: u128 = 30 * DAY;
const YEAR: u128 = 12 * MONTH;

/// `593 B`, `6.5 kB`, `10 GB`: units of 1,000, one decimal below ten.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 10 {
        return format!("{count} B");
    }
    let (mut unit, mut scale) = (0, 1_u64);
    while unit + 1 < UNITS.len() && count / scale >= 1000 {
        unit += 1;
        scale *= 1000;
    }
    let value = (count as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `now`, `1 second ago`, `25 seconds from now`, `3 weeks ago`, …
pub(super) fn relative(then: Timestamp, now: Timestamp) -> String {
    let (label, apart) = if then > now {
        ("from now", then.saturating_duration_since(now))
    } else {
        ("ago", now.saturating_duration_since(then))
    };
    let apart = apart.as_nanos();
    let step = STEPS.iter().find(|(below, ..)| apart < *below);
    match step {
        Some((_, _, "now")) => "now".to_owned(),
        Some((_, 0, text)) => format!("{text} {label}"),
        Some((_, unit, units)) => format!("{} {units} {label}", apart / unit),
        None => format!("a long while {label}"),
    }
}

/// Below how many nanoseconds which words are used: counted in a unit, or with unit 0 as they are.
const STEPS: [(u128, u128, &str); 16] = [
    (SECOND, 0, "now"),
    (2 * SECOND, 0, "1 second"),
    (MINUTE, SECOND, "seconds"),
    (2 * MINUTE, 0, "1 minute"),
    (HOUR, MINUTE, "minutes"),
    (2 * HOUR, 0, "1 hour"),
    (DAY, HOUR, "hours"),
    (2 * DAY, 0, "1 day"),
    (WEEK, DAY, "days"),
    (2 * WEEK, 0, "1 week"),
    (MONTH, WEEK, "weeks"),
    (2 * MONTH, 0, "1 month"),
    (YEAR, MONTH, "months"),
    (18 * MONTH, 0, "1 year"),
    (2 * YEAR, 0, "2 years"),
    (37 * YEAR, YEAR, "years"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_the_reference() {
        for (count, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (593, "593 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (6543, "6.5 kB"),
            (9950, "10 kB"),
            (11849, "12 kB"),
            (22500, "22 kB"),
            (999_950, "1000 kB"),
            (1_000_000, "1.0 MB"),
            (9_999_973_126, "10 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn times_read_as_in_the_reference() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let day = 86_400;
        for (seconds, text) in [
            (0, "now"),
            (1, "1 second"),
            (2, "2 seconds"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (119, "1 minute"),
            (120, "2 minutes"),
            (3600, "1 hour"),
            (7200, "2 hours"),
            (day, "1 day"),
            (2 * day, "2 days"),
            (7 * day, "1 week"),
            (14 * day, "2 weeks"),
            (30 * day, "1 month"),
            (60 * day, "2 months"),
            (360 * day, "1 year"),
            (540 * day, "2 years"),
            (720 * day, "2 years"),
            (3 * 360 * day, "3 years"),
            (37 * 360 * day, "a long while"),
        ] {
            let (ago, ahead) = if seconds == 0 {
                (text.to_owned(), text.to_owned())
            } else {
                (format!("{text} ago"), format!("{text} from now"))
            };
            let at = |offset: i64| relative(Timestamp::from_unix_seconds(1_800_000_000 + offset), now);
            assert_eq!((at(-seconds), at(seconds)), (ago, ahead), "{seconds}");
        }
    }
}
