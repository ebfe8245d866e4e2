//! CIDs, peer ids, times and numbers as they stand in JSON, written straight into a buffer: their `Display` goes through
//! allocations that a listing of millions of lines would feel.

pub(crate) mod ids;
pub(crate) mod pin;
pub(crate) mod time;

/// `00` to `99`.
static PAIRS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        table[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    table
};

/// A quoted string of what needs no escapes: CIDs, peer ids, addresses, times.
pub(crate) fn plain(out: &mut Vec<u8>, text: &impl std::fmt::Display) {
    use std::io::Write as _;
    out.push(b'"');
    // Writing to memory does not fail.
    let _ = write!(out, "{text}");
    out.push(b'"');
}

/// A number in decimal.
pub(crate) fn unsigned(out: &mut Vec<u8>, mut number: u64) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let mut start = DIGITS_MAX;
    while number >= 100 {
        start -= 2;
        digits[start..start + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    let last = PAIRS[number as usize];
    if number >= 10 {
        start -= 2;
        digits[start..start + 2].copy_from_slice(&last);
    } else {
        start -= 1;
        digits[start] = last[1];
    }
    out.extend_from_slice(&digits[start..]);
}

/// A number in decimal, which may be less than nothing.
pub(crate) fn signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    unsigned(out, number.unsigned_abs());
}

/// A list of what `write` makes of each.
pub(crate) fn list<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}
