//! A terminal on which one text stands in the place of the one before, until somebody has seen enough.

use std::io::{self, IsTerminal as _, Read as _, stdin, stdout};

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::client::is_dumb;
use super::view::print;

/// To the first line, and no lines longer than the terminal is wide: it cuts them.
const BEGIN: &str = "\x1b[H\x1b[?7l";
/// Away with what was there before, to the right.
const LINE_END: &str = "\x1b[K\r\n";
/// And below.
const END: &str = "\x1b[J\x1b[?7h";
/// Rows of a terminal that does not say how many it has.
const ROWS_DEFAULT: u16 = 24;

/// The terminal. It is as it was before once this is dropped, but for what it shows.
pub(super) struct Screen {
    /// As the terminal was; `None`: its keys are not ours.
    before: Option<Termios>,
    /// `q` was typed.
    quit: watch::Receiver<bool>,
    /// Ctrl-C was. `None`: that ends the process by itself.
    interrupt: Option<Signal>,
    /// What it shows.
    text: String,
}

impl Screen {
    /// `None`: standard output is no terminal that can do this.
    pub(super) fn open() -> Option<Screen> {
        if !stdout().is_terminal() || is_dumb() {
            return None;
        }
        let interrupt = signal(SignalKind::interrupt()).ok();
        let (typed, quit) = watch::channel(false);
        let before = take_keys().ok().flatten();
        if before.is_some() {
            // Not one of tokio's, whose end would be waited for.
            std::thread::spawn(move || wait_for_q(&typed));
        }
        Some(Screen { before, quit, interrupt, text: String::new() })
    }

    /// Shows this from now on.
    pub(super) fn show(&mut self, text: String) -> io::Result<()> {
        self.text = text;
        self.draw("")
    }

    /// Shows a line above what is there.
    pub(super) fn note(&self, note: &str) -> io::Result<()> {
        self.draw(&format!("{note}\n\n"))
    }

    fn draw(&self, above: &str) -> io::Result<()> {
        let rows = tcgetwinsize(stdout()).map(|size| size.ws_row).unwrap_or_default();
        let rows = if rows == 0 { ROWS_DEFAULT } else { rows };
        print(&drawn(&format!("{above}{}", self.text), rows.into()))
    }

    /// Resolves when somebody types `q` or Ctrl-C.
    pub(super) async fn enough(&mut self) {
        let interrupted = async {
            match &mut self.interrupt {
                Some(interrupt) => interrupt.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Where no keys are ours, none will come.
            Ok(_) = self.quit.wait_for(|typed| *typed) => {}
            _ = interrupted => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Where it has gone away there is nothing to put right.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Has keys come at once, and unseen; answers how that was before. `None`: they are another's, or there is no terminal.
fn take_keys() -> rustix::io::Result<Option<Termios>> {
    // In the background, to do this is to be stopped.
    if !stdin().is_terminal() || tcgetpgrp(stdin())? != getpgrp() {
        return Ok(None);
    }
    let before = tcgetattr(stdin())?;
    let mut wanted = before.clone();
    wanted.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    wanted.special_codes[SpecialCodeIndex::VMIN] = 1;
    wanted.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(stdin(), OptionalActions::Now, &wanted)?;
    Ok(Some(before))
}

fn wait_for_q(quit: &watch::Sender<bool>) {
    let typed = stdin().lock().bytes().map_while(Result::ok).find(|key| matches!(key, b'q' | b'Q'));
    if typed.is_some() {
        quit.send_replace(true);
    }
}

/// What has to be written for a text to stand where another one was, on so many rows. Where there is no room for all of it,
/// the last row says so.
fn drawn(text: &str, rows: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    // Without the line at which the cursor stands afterwards.
    let room = rows.saturating_sub(1).max(1);
    let mut out = BEGIN.to_owned();
    let shown = if lines.len() <= room { lines.len() } else { room - 1 };
    for line in &lines[..shown] {
        out.push_str(line);
        out.push_str(LINE_END);
    }
    if shown < lines.len() {
        out.push_str(&format!("… {} more lines{LINE_END}", lines.len() - shown));
    }
    out.push_str(END);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(drawn: &str) -> Vec<&str> {
        let inner = drawn.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap();
        inner.split_terminator(LINE_END).collect()
    }

    #[test]
    fn what_has_no_room_is_left_out_from_below() {
        assert_eq!(rows(&drawn("a\nb\nc\n", 4)), ["a", "b", "c"]);
        assert_eq!(rows(&drawn("a\nb\nc\nd\n", 4)), ["a", "b", "… 2 more lines"]);
        assert_eq!(rows(&drawn("a\nb\n", 1)), ["… 2 more lines"]);
        assert_eq!(rows(&drawn("", 4)), Vec::<&str>::new());
    }
}
