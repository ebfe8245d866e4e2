//! Points in time as RFC 3339.

use super::{PAIRS, plain};
use crate::types::Timestamp;

/// What the reference writes where a time is not set.
const ZERO: &[u8] = b"\"0001-01-01T00:00:00Z\"";
/// The years that have four digits, in Unix seconds.
const FOUR_DIGITS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

const SECONDS_PER_DAY: i64 = 86_400;

/// A time as a quoted string; `"0001-01-01T00:00:00Z"` for none.
pub(crate) fn or_zero(out: &mut Vec<u8>, time: Option<Timestamp>) {
    match time {
        Some(time) => timestamp(out, time),
        None => out.extend_from_slice(ZERO),
    }
}

fn timestamp(out: &mut Vec<u8>, time: Timestamp) {
    let seconds = time.unix_seconds();
    if !FOUR_DIGITS.contains(&seconds) {
        return plain(out, &time);
    }
    let civil = Civil::of(seconds);
    let year = civil.year.unsigned_abs() as usize;
    let [y1, y2] = PAIRS[year / 100 % 100];
    let [y3, y4] = PAIRS[year % 100];
    let [m1, m2] = PAIRS[civil.month];
    let [d1, d2] = PAIRS[civil.day];
    let [h1, h2] = PAIRS[civil.hour];
    let [n1, n2] = PAIRS[civil.minute];
    let [s1, s2] = PAIRS[civil.second];
    out.extend_from_slice(&[
        b'"', y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2,
    ]);
    let nanoseconds = time.subsecond_nanoseconds();
    if nanoseconds > 0 {
        let mut fraction = [b'0'; 10];
        fraction[0] = b'.';
        let mut rest = nanoseconds;
        for digit in fraction[1..].iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        let zeros = fraction.iter().rev().take_while(|digit| **digit == b'0').count();
        out.extend_from_slice(&fraction[..fraction.len() - zeros]);
    }
    out.extend_from_slice(b"Z\"");
}

/// The parts of a time in UTC.
pub(crate) struct Civil {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: usize,
    /// 1 to 31.
    pub(crate) day: usize,
    pub(crate) hour: usize,
    pub(crate) minute: usize,
    pub(crate) second: usize,
    /// 0 is Sunday.
    #[cfg_attr(not(feature = "api-rest"), allow(dead_code, reason = "for the log of requests"))]
    pub(crate) weekday: usize,
}

impl Civil {
    /// From Unix seconds, by counting in eras of 400 years that begin on the first of March.
    pub(crate) fn of(unix_seconds: i64) -> Self {
        const DAYS_PER_ERA: i64 = 146_097;
        /// From 0000-03-01 to 1970-01-01.
        const EPOCH: i64 = 719_468;
        let days = unix_seconds.div_euclid(SECONDS_PER_DAY);
        let second_of_day = unix_seconds.rem_euclid(SECONDS_PER_DAY) as usize;
        let shifted = days + EPOCH;
        let era = shifted.div_euclid(DAYS_PER_ERA);
        let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March on have 153 days in each group of five.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as usize,
            day: day as usize,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(time: Timestamp) -> String {
        let mut out = Vec::new();
        timestamp(&mut out, time);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_time_is_written_with_the_zeros_of_its_fraction_cut() {
        for text in [
            "2026-11-20T23:19:20.706294137Z",
            "2026-11-20T23:19:20Z",
            "2024-02-29T00:00:00.5Z",
            "1969-12-31T23:59:59.000000001Z",
            "0001-01-01T00:00:00Z",
            "9999-12-30T22:00:00Z",
        ] {
            assert_eq!(written(text.parse().unwrap()), format!("\"{text}\""));
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_is_right() {
        for day in -1..=2_932_897i64 {
            if day % 97 > 3 && day % 365 > 2 {
                continue;
            }
            let time = Timestamp::from_unix_seconds(day * 86_400 + day % 86_400);
            assert_eq!(written(time), format!("\"{time}\""), "day {day}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_it_displays(seconds in -70_000_000_000i64..260_000_000_000, nanoseconds in 0u64..1_000_000_000) {
            let time = Timestamp::from_unix_seconds(seconds);
            prop_assert_eq!(written(time), format!("\"{time}\""));
            if seconds.abs() < 9_000_000_000 {
                let time = time + std::time::Duration::from_nanos(nanoseconds);
                prop_assert_eq!(written(time), format!("\"{time}\""));
            }
        }
    }
}
