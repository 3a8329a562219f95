//! A bar on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Progress {
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:20} {prefix}: {wide_msg}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress(bar)
    }

    /// Something begins that has so many steps.
    pub(crate) fn stage(&self, what: &str, steps: usize) {
        self.0.set_length(steps as u64);
        self.0.set_position(0);
        self.0.set_prefix(what.to_owned());
        self.0.set_message("");
    }

    /// Its next step begins.
    pub(crate) fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.inc(1);
    }

    /// Prints to standard output, and keeps the bar out of the way.
    pub(crate) fn print(&self, text: &str) {
        self.0.suspend(|| print!("{text}"));
    }

    pub(crate) fn done(&self) {
        self.0.finish_and_clear();
    }
}
