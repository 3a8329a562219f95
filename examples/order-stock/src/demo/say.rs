//! What the reader sees while it happens.

use std::fmt::Display;
use std::io::{IsTerminal as _, stdout};

/// A headline.
pub(crate) fn headline(text: impl Display) {
    match stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => println!("\n\x1b[1m{text}\x1b[0m"),
        false => println!("\n{text}"),
    }
}

/// What is going on.
pub(crate) fn line(text: impl Display) {
    println!("   {text}");
}

/// A number with commas between its thousands.
pub(crate) fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Cents as money.
pub(crate) fn money(cents: i64) -> String {
    let sign = if cents < 0 && cents > -100 { "-" } else { "" };
    format!("{sign}{}.{:02}", thousands(cents / 100), (cents % 100).abs())
}

/// How many there are.
pub(crate) fn count(number: usize) -> String {
    thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        for (number, text) in
            [(0, "0"), (-7, "-7"), (999, "999"), (-1_000, "-1,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn money_has_two_decimals() {
        for (cents, text) in [(0, "0.00"), (-5, "-0.05"), (-105, "-1.05"), (123_456, "1,234.56")] {
            assert_eq!(money(cents), text);
        }
    }
}
