//! How far a long command has come, on standard error where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn, in times per second.
const DRAWS_PER_S: u8 = 10;

/// A bar up to a known number of transactions; where that is unknown, only their count.
pub(super) fn transactions(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S));
    let template = match total {
        Some(_) => "{wide_bar} {human_pos} of {human_len} transactions, {eta} left",
        None => "{spinner} {human_pos} transactions, {per_sec}",
    };
    // One that cannot be read leaves the default.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A sign of life for what cannot be counted.
pub(super) fn waiting(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S));
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
