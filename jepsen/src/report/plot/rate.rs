//! How many operations ended in a second, by outcome, stacked.

use anyhow::Result;
use plotters::prelude::{Color as _, Polygon};

use super::{Frame, Mark, colour, number, outcomes};
use crate::history::Type;
use crate::report::{Run, seconds};

/// The run is cut into so many parts at most, none shorter than a second if it is not itself.
const PARTS: f64 = 240.0;

/// From the bottom to the top: what is rare is on top, where it can be seen.
const STACK: [Type; 3] = [Type::Ok, Type::Fail, Type::Info];

/// The plot, as SVG.
pub(in crate::report) fn rate(run: &Run<'_>) -> Result<String> {
    let parts = run.span_s().clamp(1.0, PARTS).floor();
    let width_s = run.span_s() / parts;
    let rates = rates(run, parts as usize, width_s);
    let most = rates.iter().map(|part| part.iter().sum()).fold(0.0, f64::max);
    let frame = Frame {
        run,
        title: "Operations that ended, per second",
        legend: outcomes(run, [Mark::Block; 3]),
        y: 0.0..if most > 0.0 { most * 1.05 } else { 1.0 },
        y_labels: 8,
        y_label: number,
    };
    frame.draw(|chart, time| {
        // Each layer hides the lower part of the one before it.
        for (layer, outcome) in STACK.into_iter().enumerate().rev() {
            let mut outline = vec![(0.0, 0.0)];
            for (place, part) in rates.iter().enumerate() {
                let height = part[..=layer].iter().sum();
                let edge = |place| time.units(width_s * place as f64);
                outline.extend([(edge(place), height), (edge(place + 1), height)]);
            }
            outline.push((time.units(time.end_s), 0.0));
            chart.draw_series([Polygon::new(outline, colour(outcome).filled())])?;
        }
        Ok(())
    })
}

/// Of each part of the run, by outcome as in [`STACK`]. What never ended is not there.
fn rates(run: &Run<'_>, parts: usize, width_s: f64) -> Vec<[f64; 3]> {
    let mut rates = vec![[0.0; 3]; parts];
    for call in &run.calls {
        let Some(end) = call.completed else { continue };
        let part = ((seconds(end.time_ns) / width_s) as usize).min(parts - 1);
        if let Some(place) = STACK.iter().position(|outcome| *outcome == end.kind) {
            rates[part][place] += 1.0 / width_s;
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history;
    use crate::report::Report;
    use crate::verdict::Verdict;

    #[test]
    fn each_outcome_is_counted_where_it_ended() {
        let lines = [
            "{:process 0 :type :invoke :f :a :time 0}",
            "{:process 0 :type :fail :f :a :time 400000000}",
            "{:process 0 :type :invoke :f :a :time 400000000}",
            "{:process 0 :type :ok :f :a :time 900000000}",
            "{:process 0 :type :invoke :f :a :time 900000000}",
            "{:process 1 :type :invoke :f :a :time 900000000}",
            "{:process 1 :type :info :f :a :time 1000000000}",
        ];
        let history = history::read(&lines.join("\n")).unwrap();
        let report = Report {
            history: &history,
            title: String::new(),
            parameters: Vec::new(),
            command: String::new(),
            verdict: Verdict::Valid,
            claims: Vec::new(),
            anomalies: Vec::new(),
            vacuous: Vec::new(),
        };
        let rates = rates(&Run::new(&report).unwrap(), 2, 0.5);
        assert_eq!(rates, [[0.0, 2.0, 0.0], [2.0, 0.0, 2.0]]);
    }
}
