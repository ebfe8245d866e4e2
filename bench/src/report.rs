//! Figures, and the table they end in.

use std::time::Duration;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

/// One figure of one program.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    better: Better,
}

impl Row {
    pub(crate) fn rate(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, better: Better::Higher }
    }

    pub(crate) fn lower(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, better: Better::Lower }
    }

    pub(crate) fn milliseconds(what: impl Into<String>, value: Duration) -> Self {
        Self::lower(what, value.as_secs_f64() * 1e3, "ms")
    }

    pub(crate) fn mebibytes(what: impl Into<String>, bytes: u64) -> Self {
        Self::lower(what, bytes as f64 / f64::from(1 << 20), "MiB")
    }

    fn text(&self) -> String {
        let digits = if self.value >= 100.0 { 0 } else { 1 };
        format!("{} {}", grouped(self.value, digits), self.unit)
    }
}

/// A Markdown table of our figures, with the reference's beside them where there are any.
pub(crate) fn table(ours: &[Row], reference: Option<&[Row]>) -> String {
    let mut lines = Vec::new();
    match reference {
        None => lines.extend(["| figure | ours |".to_owned(), "|---|---:|".to_owned()]),
        Some(_) => lines.extend([
            "| figure | ours | Go 1.1.6 | times better |".to_owned(),
            "|---|---:|---:|---:|".to_owned(),
        ]),
    }
    for (number, row) in ours.iter().enumerate() {
        let Some(reference) = reference else {
            lines.push(format!("| {} | {} |", row.what, row.text()));
            continue;
        };
        // The n-th of a name there for the n-th of it here: "the same, p99" follows many a figure.
        let place = ours[..number].iter().filter(|other| other.what == row.what).count();
        let (theirs, ratio) = match reference.iter().filter(|other| other.what == row.what).nth(place) {
            None => ("–".to_owned(), "–".to_owned()),
            Some(other) => {
                let ratio = match row.better {
                    Better::Higher => row.value / other.value,
                    Better::Lower => other.value / row.value,
                };
                // Nothing is no times better than nothing, and no number of times better than something.
                let ratio = if ratio.is_finite() { format!("{ratio:.1}") } else { "–".to_owned() };
                (other.text(), ratio)
            }
        };
        lines.push(format!("| {} | {} | {theirs} | {ratio} |", row.what, row.text()));
    }
    lines.join("\n")
}

fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_same_name_are_told_apart_by_their_order() {
        let rows =
            |first: f64, second: f64| [Row::lower("p99", first, "ms"), Row::lower("p99", second, "ms")];
        let table = table(&rows(1.0, 2.0), Some(&rows(2.0, 8.0)));
        assert!(
            table.ends_with("| p99 | 1.0 ms | 2.0 ms | 2.0 |\n| p99 | 2.0 ms | 8.0 ms | 4.0 |"),
            "{table}"
        );
    }

    #[test]
    fn a_table_says_how_many_times_better_whichever_way_is_better() {
        let ours = [Row::rate("posts", 20_000.0, "pins/s"), Row::lower("disk", 300.0, "bytes/pin")];
        let theirs = [Row::rate("posts", 2_000.0, "pins/s"), Row::lower("disk", 600.0, "bytes/pin")];
        let table = table(&ours, Some(&theirs));
        assert!(table.contains("| posts | 20,000 pins/s | 2,000 pins/s | 10.0 |"), "{table}");
        assert!(table.contains("| disk | 300 bytes/pin | 600 bytes/pin | 2.0 |"), "{table}");
    }
}
