//! Throughput and latency over concurrency, ours and the baseline's, as SVG.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Circle, Color as _, DrawingArea, IntoDrawingArea as _, IntoFont as _, IntoLogRange as _,
    LineSeries, PathElement, RGBColor, SVGBackend, SeriesLabelPosition, TextStyle,
};

use crate::contest::Side;

// In pixels.
const WIDTH: u32 = 1_000;
const HEIGHT: u32 = 900;
const HEAD: u32 = 50;

const INK: RGBColor = RGBColor(0x22, 0x26, 0x2e);
const FAINT: RGBColor = RGBColor(0x5d, 0x65, 0x73);
const GRID: RGBColor = RGBColor(0xdd, 0xe1, 0xe7);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
const OURS: RGBColor = RGBColor(0x2f, 0x6f, 0xd6);
const BASELINE: RGBColor = RGBColor(0xe8, 0x4a, 0x0c);

/// What a plot shows.
#[derive(Debug)]
pub(crate) struct Curve {
    title: String,
    ours: String,
    baseline: String,
    points: Vec<Point>,
}

/// Of ours and the baseline.
#[derive(Debug, Clone, Copy)]
struct Point {
    concurrency: usize,
    per_second: [f64; 2],
    p50_ms: [f64; 2],
    p99_ms: [f64; 2],
}

/// One line of a chart.
struct Line {
    name: String,
    colour: RGBColor,
    width: u32,
    value: fn(&Point) -> f64,
}

impl Curve {
    pub(crate) fn new(title: &str, ours: &str, baseline: &str) -> Curve {
        let [title, ours, baseline] = [title, ours, baseline].map(str::to_owned);
        Curve { title, ours, baseline, points: Vec::new() }
    }

    /// What was measured at a concurrency.
    ///
    /// # Errors
    /// When latencies cannot be added up.
    pub(crate) fn add(&mut self, concurrency: usize, ours: &Side, baseline: &Side) -> Result<()> {
        self.points.push(Point {
            concurrency,
            per_second: [ours.per_second(), baseline.per_second()],
            p50_ms: [ours.ms(0.5)?, baseline.ms(0.5)?],
            p99_ms: [ours.ms(0.99)?, baseline.ms(0.99)?],
        });
        Ok(())
    }

    fn throughput(&self) -> [Line; 2] {
        let [ours, baseline] = [self.ours.clone(), self.baseline.clone()];
        [
            Line { name: ours, colour: OURS, width: 3, value: |point| point.per_second[0] },
            Line { name: baseline, colour: BASELINE, width: 3, value: |point| point.per_second[1] },
        ]
    }

    fn latency(&self) -> [Line; 4] {
        let line = |whose: &str, what: &str, colour, width, value| Line {
            name: format!("{whose}, {what}"),
            colour,
            width,
            value,
        };
        [
            line(&self.ours, "p50", OURS, 3, |point: &Point| point.p50_ms[0]),
            line(&self.ours, "p99", OURS, 1, |point: &Point| point.p99_ms[0]),
            line(&self.baseline, "p50", BASELINE, 3, |point: &Point| point.p50_ms[1]),
            line(&self.baseline, "p99", BASELINE, 1, |point: &Point| point.p99_ms[1]),
        ]
    }

    /// The plot, as SVG.
    fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&PAPER)?;
        let title = format!("{}: throughput and latency by how many at a time", self.title);
        root.draw_text(&title, &text(22, INK), (20, 16))?;
        let (_, below) = root.split_vertically(HEAD);
        let (upper, lower) = below.split_vertically((HEIGHT - HEAD) / 2);
        self.chart(&upper, "transactions per second", &self.throughput())?;
        self.chart(&lower, "latency, ms", &self.latency())?;
        root.present()?;
        drop((upper, lower, below, root));
        Ok(svg)
    }

    fn chart(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, axis: &str, lines: &[Line]) -> Result<()> {
        let last = self.points.iter().map(|point| point.concurrency).max().context("no points")?;
        let values = || self.points.iter().flat_map(|point| lines.iter().map(|line| (line.value)(point)));
        let mut chart = ChartBuilder::on(area)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(90)
            // A range ends before its end; the last point is to be on it.
            .build_cartesian_2d(
                (1.0..last as f64 * 1.1).log_scale().base(2.0),
                decades(values()).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("at a time")
            .y_desc(axis)
            .x_labels(12)
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| value.to_string())
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .label_style(text(15, FAINT))
            .axis_desc_style(text(16, INK))
            .draw()?;
        for Line { name, colour, width, value } in lines {
            let (colour, width) = (*colour, *width);
            let places = || self.points.iter().map(|point| (point.concurrency as f64, value(point)));
            chart
                .draw_series(LineSeries::new(places(), colour.stroke_width(width)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(width)));
            chart.draw_series(places().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(PAPER)
            .border_style(GRID)
            .label_font(text(15, INK))
            .draw()?;
        Ok(())
    }
}

/// The powers of ten between which all values are.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let exponents = values.map(f64::log10);
    let low = exponents.clone().fold(f64::INFINITY, f64::min).floor();
    let high = exponents.fold(f64::NEG_INFINITY, f64::max).ceil();
    10_f64.powf(low)..10_f64.powf(high.max(low + 1.0)) * 1.001
}

fn text(size: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

/// Writes `NAME.svg` in the directory `plots`.
///
/// # Errors
/// When it cannot be drawn or written.
pub(crate) fn plot(plots: &Path, name: &str, curve: &Curve) -> Result<()> {
    std::fs::create_dir_all(plots)?;
    let path = plots.join(format!("{name}.svg"));
    std::fs::write(&path, curve.svg()?).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_values() {
        let range = decades([0.3, 42.0].into_iter());
        assert!(range.start <= 0.1 + 1e-9 && range.start > 0.09, "{range:?}");
        assert!(range.end >= 100.0 && range.end < 101.0, "{range:?}");
    }

    #[test]
    fn a_plot_has_a_line_for_each_of_ours_and_the_baseline() {
        let point = |concurrency| Point {
            concurrency,
            per_second: [1_000.0, 2_000.0],
            p50_ms: [1.0, 0.5],
            p99_ms: [9.0, 3.0],
        };
        let curve =
            Curve { points: [1, 8, 512].map(point).into(), ..Curve::new("test", "Concord", "bare client") };
        let svg = curve.svg().unwrap();
        for name in ["Concord", "bare client", "Concord, p50", "Concord, p99", "bare client, p99"] {
            assert!(svg.contains(name), "{name}");
        }
        // The middle of the concurrency axis and its end are labelled.
        assert!(svg.contains("512"), "{svg}");
    }
}
