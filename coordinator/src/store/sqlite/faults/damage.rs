//! Files that are cut, and files in which a bit is another.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::history::{Files, History, Verdict};
use super::{is_whole, sample, say};

/// Of the log: a frame is a head and a page.
const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const PAGE: usize = 4_096;
/// Frames at the end of the log that are damaged everywhere, in the long form.
const LAST_FRAMES: usize = 12;

/// How often it came to what.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        *self.0.entry(format!("{verdict:?}")).or_default() += 1;
    }

    fn of(&self, verdict: Verdict) -> usize {
        self.0.get(&format!("{verdict:?}")).copied().unwrap_or_default()
    }

    fn say(&self, what: &str) {
        let sum: usize = self.0.values().sum();
        let parts: Vec<_> = self.0.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        say(&format!("{what}: {sum} stores: {}", parts.join(", ")));
    }
}

/// The last bytes of a log: from the beginning of the frame that is so many before the end.
fn last_frames(log: &[u8]) -> Range<usize> {
    let frames = (log.len() - LOG_HEAD) / (FRAME_HEAD + PAGE);
    assert_eq!(log.len(), LOG_HEAD + frames * (FRAME_HEAD + PAGE), "the log ends with a frame");
    LOG_HEAD + (frames - LAST_FRAMES) * (FRAME_HEAD + PAGE)..log.len()
}

/// The bytes of a range; of those, at least the first ones of each block, and some of the others.
fn places(range: Range<usize>, start: usize, block: usize, first: usize, random: &mut StdRng) -> Vec<usize> {
    let one_in = 300;
    range
        .filter(|at| is_whole() || at.saturating_sub(start) % block < first || random.random_ratio(1, one_in))
        .collect()
}

/// The log, cut: what was acknowledged is there, or missed.
#[test]
fn a_log_that_was_cut() {
    let (history, crashed, _) = History::play();
    let mut random = sample();
    let mut tally = Tally::default();
    assert_eq!(history.judge(&crashed, "nothing is damaged"), Verdict::Whole);
    let frame = FRAME_HEAD + PAGE;
    let mut lengths = places(last_frames(&crashed.log), LOG_HEAD, frame, FRAME_HEAD + 2, &mut random);
    lengths.extend(0..=LOG_HEAD);
    for length in lengths {
        let files = Files { log: crashed.log[..length].to_vec(), ..crashed.clone() };
        tally.add(history.judge(&files, &format!("the log is cut to {length} of {}", crashed.log.len())));
    }
    tally.say("the log is cut");
    // Only what was appended lazily may go without a word.
    assert!(tally.of(Verdict::Refused) > 100 && tally.of(Verdict::Whole) > 50, "{tally:?}");
    assert_eq!(tally.0.len(), 2, "{tally:?}");
}

/// A disk that said that it had synced, and had not, and a power failure. The store is as it was at an earlier moment.
/// If the watermark is a later one, that is noticed; if it is not, nothing that is left can tell: no store can notice
/// that, and it is as whole as it was then.
#[test]
fn a_disk_that_lied() {
    let (history, ..) = History::play();
    let mut tally = Tally::default();
    for (number, left) in history.moments.iter().enumerate() {
        for (later, other) in history.moments.iter().enumerate() {
            let files = Files { watermark: other.files.watermark.clone(), ..left.files.clone() };
            let what = format!("as it was after no. {number}, with the watermark of no. {later}");
            let verdict = history.judge_by(std::slice::from_ref(&left.state), &files, &what);
            let expected = if later > number { Verdict::Refused } else { Verdict::Whole };
            assert_eq!(verdict, expected, "{what}");
            tally.add(verdict);
        }
    }
    tally.say("the end of the log was never written");
}

/// The store's file, cut: after a clean end, and with a log beside it.
#[test]
fn a_store_that_was_cut() {
    let (history, crashed, closed) = History::play();
    let mut random = sample();
    for (name, whole) in [("with a log", crashed), ("without a log", closed)] {
        let mut tally = Tally::default();
        assert_eq!(history.judge(&whole, "nothing is damaged"), Verdict::Whole);
        let last = whole.store.len() - 4 * PAGE..whole.store.len();
        let mut lengths = places(last, 0, PAGE, 3, &mut random);
        lengths.extend((0..whole.store.len()).step_by(PAGE));
        lengths.extend(0..=100);
        for length in lengths {
            let files = Files { store: whole.store[..length].to_vec(), ..whole.clone() };
            tally.add(history.judge(&files, &format!("{name}, cut to {length} of {}", whole.store.len())));
        }
        tally.say(&format!("the store, {name}, is cut"));
        assert!(tally.of(Verdict::Refused) > 50, "{tally:?}");
        assert_eq!(tally.of(Verdict::KeyUnknown), 0, "{tally:?}");
    }
}

/// Every bit of the last frames' heads and of the log's own, and some of the pages.
#[test]
fn a_bit_of_the_log_that_flipped() {
    let (history, crashed, _) = History::play();
    let mut random = sample();
    let mut tally = Tally::default();
    let frame = FRAME_HEAD + PAGE;
    let mut bytes = places(last_frames(&crashed.log), LOG_HEAD, frame, FRAME_HEAD, &mut random);
    bytes.extend(0..LOG_HEAD);
    for at in bytes {
        for bit in bits(&mut random) {
            let mut files = crashed.clone();
            files.log[at] ^= 1 << bit;
            tally.add(history.judge(&files, &format!("bit {bit} of byte {at} of the log is flipped")));
        }
    }
    tally.say("a bit of the log is flipped");
    assert!(tally.of(Verdict::Refused) > 200 && tally.of(Verdict::Whole) > 50, "{tally:?}");
    assert_eq!(tally.0.len(), 2, "{tally:?}");
}

/// The heads of pages, where one bit can hide rows, and some of everything else.
#[test]
fn a_bit_of_the_store_that_flipped() {
    let (history, _, closed) = History::play();
    let mut random = sample();
    let mut tally = Tally::default();
    let bytes = places(0..closed.store.len(), 0, PAGE, 40, &mut random);
    for at in bytes {
        for bit in bits(&mut random) {
            let mut files = closed.clone();
            files.store[at] ^= 1 << bit;
            tally.add(history.judge(&files, &format!("bit {bit} of byte {at} of the store is flipped")));
        }
    }
    tally.say("a bit of the store is flipped");
    for verdict in [Verdict::Refused, Verdict::NotLoaded, Verdict::NotRead, Verdict::Whole] {
        assert!(tally.of(verdict) > 0, "{tally:?}");
    }
}

/// Which bits of a byte: all, or one.
fn bits(random: &mut StdRng) -> Range<u8> {
    let one = random.random_range(0..8);
    if is_whole() { 0..8 } else { one..one + 1 }
}
