//! What both plots have: a title, a legend, the faults, the axes. Above the plot each kind of fault has a lane of its
//! own, because faults overlap; below its lane each fault shades the plot.

mod latency;
mod rate;

pub(super) use latency::latency;
pub(super) use rate::rate;

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Cartesian2d, ChartBuilder, ChartContext, Circle, Color as _, Cross, DrawingArea, IntoDrawingArea as _,
    IntoFont as _, PathElement, RGBColor, Rectangle, SVGBackend, TextStyle, TriangleMarker,
};
use plotters::style::FontStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Run, faults, grouped, without_controls};
use crate::history::Type;

// In pixels.
const WIDTH: i32 = 1200;
const LEFT: i32 = 130;
const RIGHT: i32 = 24;
const HEAD: i32 = 76;
const LANE: i32 = 20;
const GAP: i32 = 10;
const PLOT: i32 = 420;
const FOOT: i32 = 48;

const INK: RGBColor = RGBColor(0x22, 0x26, 0x2e);
const FAINT: RGBColor = RGBColor(0x5d, 0x65, 0x73);
const GRID: RGBColor = RGBColor(0xdd, 0xe1, 0xe7);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// The colours of the kinds of faults, none near one of [`colour`]'s.
const KINDS: [RGBColor; 10] = [
    RGBColor(0xc2, 0x25, 0x5c),
    RGBColor(0x7a, 0x52, 0xc7),
    RGBColor(0x1f, 0x9e, 0x8f),
    RGBColor(0xc4, 0x9a, 0x1a),
    RGBColor(0x6b, 0x8e, 0x23),
    RGBColor(0x8d, 0x5b, 0x3a),
    RGBColor(0xd8, 0x6f, 0xb5),
    RGBColor(0x3a, 0xa6, 0xd0),
    RGBColor(0x70, 0x80, 0x90),
    RGBColor(0x1b, 0x7f, 0x4d),
];

/// How strongly a fault shades the plot below its lane.
const SHADE: f64 = 0.13;

/// How strongly the shortest fault is drawn.
const FAINTEST: f64 = 0.1;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A plot without what is drawn between its axes.
struct Frame<'a> {
    run: &'a Run<'a>,
    title: &'a str,
    legend: Vec<Key>,
    y: Range<f64>,
    /// So many on the axis at most.
    y_labels: usize,
    y_label: fn(f64) -> String,
}

/// What the legend says of a colour.
struct Key {
    text: String,
    colour: RGBColor,
    mark: Mark,
}

/// How a thing is drawn; outcomes differ by more than their colours.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Dot,
    Cross,
    Triangle,
    Block,
    Line,
}

/// The time axis: seconds, or minutes or hours for a long run.
struct Time {
    unit: &'static str,
    unit_s: f64,
    end_s: f64,
}

/// The colour of an outcome.
fn colour(outcome: Type) -> RGBColor {
    match outcome {
        Type::Ok | Type::Invoke => RGBColor(0x2f, 0x6f, 0xd6),
        Type::Fail => RGBColor(0x55, 0x5b, 0x66),
        Type::Info => RGBColor(0xe8, 0x4a, 0x0c),
    }
}

/// The legend of the outcomes, with how many operations ended so.
fn outcomes(run: &Run<'_>, marks: [Mark; 3]) -> Vec<Key> {
    let names = [(Type::Ok, "ok"), (Type::Fail, "fail"), (Type::Info, "info, outcome unknown")];
    let key = |((outcome, name), mark)| {
        let count = run.calls.iter().filter(|call| call.outcome() == outcome).count();
        Key { text: format!("{name}: {}", grouped(count as u64)), colour: colour(outcome), mark }
    };
    names.into_iter().zip(marks).map(key).collect()
}

/// As short as it can be: `20`, `0.5`.
fn number(value: f64) -> String {
    ((value * 1e3).round() / 1e3).to_string()
}

impl Time {
    fn of(run: &Run<'_>) -> Time {
        let end_s = run.span_s();
        let (unit, unit_s) = match end_s {
            ..1_200.0 => ("seconds", 1.0),
            ..18_000.0 => ("minutes", 60.0),
            _ => ("hours", 3_600.0),
        };
        Time { unit, unit_s, end_s }
    }

    /// In the unit of the axis.
    fn units(&self, time_s: f64) -> f64 {
        time_s / self.unit_s
    }

    /// Where a time is, in pixels.
    fn pixel(&self, time_s: f64) -> f64 {
        f64::from(LEFT) + (time_s / self.end_s).clamp(0.0, 1.0) * f64::from(WIDTH - RIGHT - LEFT)
    }
}

impl Frame<'_> {
    /// The plot as SVG; `body` draws what is between the axes.
    fn draw(&self, body: impl FnOnce(&mut Chart<'_, '_>, &Time) -> Result<()>) -> Result<String> {
        let kinds = faults::kinds(&self.run.faults);
        let time = Time::of(self.run);
        let top = HEAD + LANE * i32::try_from(kinds.len())? + GAP;
        let size = (WIDTH.unsigned_abs(), (top + PLOT + FOOT).unsigned_abs());
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&PAPER)?;
        root.draw_text(self.title, &bold(22, INK), (LEFT, 26))?;
        draw_legend(&root, &self.legend)?;
        draw_faults(&root, self.run, &kinds, &time)?;
        let below = root.clone().shrink((0, top), (WIDTH, PLOT + FOOT));
        let mut chart = ChartBuilder::on(&below)
            .x_label_area_size(FOOT)
            .y_label_area_size(LEFT)
            .margin_right(RIGHT)
            .build_cartesian_2d(0.0..time.units(time.end_s), self.y.clone())?;
        self.draw_axes(&mut chart, &time)?;
        body(&mut chart, &time)?;
        root.present()?;
        drop((chart, below, root));
        Ok(without_controls(&svg))
    }

    fn draw_axes(&self, chart: &mut Chart<'_, '_>, time: &Time) -> Result<()> {
        chart
            .configure_mesh()
            .x_desc(format!("time ({})", time.unit))
            .x_label_formatter(&|value| number(*value))
            .y_labels(self.y_labels)
            .y_label_formatter(&|value| (self.y_label)(*value))
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .label_style(text(16, FAINT))
            .axis_desc_style(text(17, INK))
            .draw()?;
        Ok(())
    }
}

fn draw_legend(root: &Area<'_>, legend: &[Key]) -> Result<()> {
    let (mut x, y) = (LEFT, 54);
    for Key { text: words, colour, mark } in legend {
        let middle = (x + 8, y);
        match mark {
            Mark::Dot => root.draw(&Circle::new(middle, 5, colour.filled()))?,
            Mark::Cross => root.draw(&Cross::new(middle, 4, colour.stroke_width(2)))?,
            Mark::Triangle => root.draw(&TriangleMarker::new(middle, 7, colour.filled()))?,
            Mark::Block => root.draw(&Rectangle::new([(x + 1, y - 7), (x + 15, y + 7)], colour.filled()))?,
            Mark::Line => root.draw(&PathElement::new([(x - 2, y), (x + 18, y)], colour.stroke_width(3)))?,
        }
        root.draw_text(words, &text(17, INK), (x + 24, y))?;
        // No fonts are known here; a letter is nearly half as wide as it is high.
        x += 24 + 8 * i32::try_from(words.len())? + 24;
    }
    Ok(())
}

fn draw_faults(root: &Area<'_>, run: &Run<'_>, kinds: &[&str], time: &Time) -> Result<()> {
    let plot = HEAD + LANE * i32::try_from(kinds.len())? + GAP;
    for (lane, kind) in kinds.iter().enumerate() {
        let colour = KINDS[lane % KINDS.len()];
        let middle = HEAD + LANE * i32::try_from(lane)? + LANE / 2;
        let name = text(16, colour).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw_text(kind, &name, (LEFT - 10, middle))?;
        let bar = |left, right| [(left, middle - 7), (right, middle + 7)];
        root.draw(&Rectangle::new(bar(LEFT, WIDTH - RIGHT), GRID.mix(0.4).filled()))?;
        for fault in run.faults.iter().filter(|fault| fault.kind == *kind) {
            let (start, end) = (time.pixel(fault.start_s), time.pixel(fault.end_s));
            let (left, right) = (start as i32, (end as i32).max(start as i32 + 1));
            // A fault narrower than a pixel is as much paler: thousands of them leave the plot readable.
            let share = (end - start).min(1.0);
            root.draw(&Rectangle::new(bar(left, right), colour.mix(share.max(FAINTEST)).filled()))?;
            let shade = colour.mix(share.max(FAINTEST) * SHADE);
            root.draw(&Rectangle::new([(left, plot), (right, plot + PLOT)], shade.filled()))?;
        }
    }
    Ok(())
}

fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center))
}

fn bold(size: i32, colour: RGBColor) -> TextStyle<'static> {
    let font = ("sans-serif", size).into_font().style(FontStyle::Bold);
    font.color(&colour).pos(Pos::new(HPos::Left, VPos::Center))
}
