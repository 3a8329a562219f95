//! How long operations took: a dot for each at the time of its beginning, and lines of percentiles.

use std::collections::BTreeMap;

use anyhow::Result;
use plotters::prelude::{Circle, Color as _, Cross, PathElement, RGBColor, TriangleMarker};

use super::{Chart, Frame, Key, Mark, Time, colour, outcomes};
use crate::history::Type;
use crate::report::summary::Percentiles;
use crate::report::{Run, latency_s, seconds};

/// So many dots are drawn at most.
const DOTS: usize = 10_000;

/// The time axis has so many columns; of each the quickest and the slowest operation is drawn in any case.
const COLUMNS: usize = 1_000;

/// The lines of percentiles have so many steps at most, and one for so many operations: a p99 of a few says nothing.
const STEPS: usize = 100;
const EACH_STEP: usize = 50;

/// The least latency that is drawn.
const LEAST_MS: f64 = 0.01;

const P50: RGBColor = RGBColor(0x0b, 0x2a, 0x63);
const P99: RGBColor = RGBColor(0xa2, 0x1c, 0xaf);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Dot {
    start_s: f64,
    ms: f64,
    outcome: Type,
}

/// The plot, as SVG.
pub(in crate::report) fn latency(run: &Run<'_>) -> Result<String> {
    let all = dots(run);
    let steps = steps(&all, run.span_s());
    let mut legend = outcomes(run, [Mark::Dot, Mark::Cross, Mark::Triangle]);
    legend.extend([("p50 of ok", P50), ("p99 of ok", P99)].map(|(text, colour)| Key {
        text: text.into(),
        colour,
        mark: Mark::Line,
    }));
    let (low, high) = decades(&all);
    let frame = Frame {
        run,
        title: "Latency of each operation, by the time of its beginning",
        legend,
        y: low..high,
        y_labels: (high - low) as usize + 1,
        y_label: |exponent| duration(10_f64.powf(exponent)),
    };
    let dots = thinned(all, run.span_s());
    frame.draw(|chart, time| {
        draw_dots(chart, time, &dots, Type::Ok)?;
        draw_dots(chart, time, &dots, Type::Fail)?;
        draw_steps(chart, time, &steps, P99, |step| step.p99)?;
        draw_steps(chart, time, &steps, P50, |step| step.p50)?;
        draw_dots(chart, time, &dots, Type::Info)
    })
}

/// One for each operation that ended.
fn dots(run: &Run<'_>) -> Vec<Dot> {
    let dot = |call: &_| {
        let ms = (latency_s(call)? * 1e3).max(LEAST_MS);
        Some(Dot { start_s: seconds(call.invoked.time_ns), ms, outcome: call.outcome() })
    };
    run.calls.iter().filter_map(dot).collect()
}

/// The place of a time among `parts` equal parts of the run.
fn part(time_s: f64, end_s: f64, parts: usize) -> usize {
    ((time_s / end_s * parts as f64) as usize).min(parts - 1)
}

/// As many as can be drawn, evenly, and with the quickest and the slowest of each outcome in each column: what stands
/// out is never left out.
fn thinned(dots: Vec<Dot>, end_s: f64) -> Vec<Dot> {
    if dots.len() <= DOTS {
        return dots;
    }
    let mut extremes: BTreeMap<(usize, u8), (usize, usize)> = BTreeMap::new();
    for (place, dot) in dots.iter().enumerate() {
        let column = (part(dot.start_s, end_s, COLUMNS), dot.outcome as u8);
        let (least, most) = extremes.entry(column).or_insert((place, place));
        if dot.ms < dots[*least].ms {
            *least = place;
        }
        if dot.ms > dots[*most].ms {
            *most = place;
        }
    }
    let mut kept = vec![false; dots.len()];
    for (least, most) in extremes.into_values() {
        kept[least] = true;
        kept[most] = true;
    }
    let others: Vec<usize> = (0..dots.len()).filter(|place| !kept[*place]).collect();
    let room = DOTS - (dots.len() - others.len());
    for place in others.iter().step_by(others.len().div_ceil(room)) {
        kept[*place] = true;
    }
    dots.into_iter().zip(kept).filter_map(|(dot, kept)| kept.then_some(dot)).collect()
}

/// The percentiles of what is ok, step by step; none where nothing is.
fn steps(dots: &[Dot], end_s: f64) -> Vec<Option<Percentiles>> {
    let ok = || dots.iter().filter(|dot| dot.outcome == Type::Ok);
    let steps = (ok().count() / EACH_STEP).clamp(1, STEPS);
    let mut latencies_s = vec![Vec::new(); steps];
    for dot in ok() {
        latencies_s[part(dot.start_s, end_s, steps)].push(dot.ms / 1e3);
    }
    latencies_s.into_iter().map(Percentiles::of).collect()
}

/// The powers of ten between which all latencies in milliseconds are.
fn decades(dots: &[Dot]) -> (f64, f64) {
    let exponents = || dots.iter().map(|dot| dot.ms.log10());
    let low = exponents().fold(f64::INFINITY, f64::min).floor();
    let high = exponents().fold(f64::NEG_INFINITY, f64::max).ceil();
    if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 3.0) }
}

fn draw_dots(chart: &mut Chart<'_, '_>, time: &Time, dots: &[Dot], outcome: Type) -> Result<()> {
    let these = dots.iter().filter(|dot| dot.outcome == outcome);
    let places = these.map(|dot| (time.units(dot.start_s), dot.ms.log10()));
    let colour = colour(outcome);
    match outcome {
        Type::Ok | Type::Invoke => {
            chart.draw_series(places.map(|at| Circle::new(at, 2, colour.mix(0.4).filled())))?
        }
        Type::Fail => chart.draw_series(places.map(|at| Cross::new(at, 2, colour.mix(0.6))))?,
        Type::Info => chart.draw_series(places.map(|at| TriangleMarker::new(at, 5, colour.filled())))?,
    };
    Ok(())
}

/// A line for each stretch of steps that have something to show.
fn draw_steps(
    chart: &mut Chart<'_, '_>,
    time: &Time,
    steps: &[Option<Percentiles>],
    colour: RGBColor,
    ms: fn(&Percentiles) -> f64,
) -> Result<()> {
    let edge = |step: usize| time.units(time.end_s) * step as f64 / steps.len() as f64;
    let mut line = Vec::new();
    for (place, step) in steps.iter().chain([&None]).enumerate() {
        match step {
            Some(step) => {
                let y = ms(step).max(LEAST_MS).log10();
                line.extend([(edge(place), y), (edge(place + 1), y)]);
            }
            None if line.is_empty() => {}
            None => {
                let line = std::mem::take(&mut line);
                chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?;
            }
        }
    }
    Ok(())
}

/// Milliseconds in the unit that suits: `20 µs`, `5 ms`, `30 s`.
fn duration(ms: f64) -> String {
    match ms {
        ..0.999 => format!("{:.0} µs", ms * 1e3),
        ..999.0 => format!("{ms:.0} ms"),
        _ => format!("{:.0} s", ms / 1e3),
    }
}
