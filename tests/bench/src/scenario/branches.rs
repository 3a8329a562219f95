//! No-op TCC with more branches: what a branch costs, whatever their number.

use anyhow::Result;

use super::side_by_side::{FLAT_THROUGHPUT, SideBySide};
use crate::contest::{Ratio, Side, contest};
use crate::load::{Load, Run, Shape, Target, through};
use crate::outcome::Outcome;
use crate::processor_time::Watched;
use crate::setup::{MANY, Setup};

const COUNTS: [usize; 4] = [2, 4, 16, 64];

pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let stage = SideBySide::set_up().await?;
    let callers = |count: usize| {
        let request = stage.request(count);
        through(&format!("{count} branches"), &stage.burdened.url(), MANY, move || request.clone())
    };
    let [two, four, sixteen, most] = COUNTS.map(callers);
    let (mut two, mut four, mut sixteen, mut most) = (two?, four?, sixteen?, most?);
    let targets: [&mut dyn Target; COUNTS.len()] = [&mut two, &mut four, &mut sixteen, &mut most];
    let load = Load { shape: Shape::Closed(MANY), span: setup.span() };
    let watched = Watched::new([("coordinator", vec![stage.burdened.pid()])]);
    let sides = contest(setup, "branches", targets, load, setup.rounds(), &watched).await?;
    let rates = |index: usize| -> Vec<f64> {
        let branches = |run: &Run| run.per_second() * COUNTS[index] as f64;
        sides[index].runs.iter().map(branches).collect()
    };
    let of_two = rates(0);
    let outcome = |(index, side): (usize, &Side)| {
        let ratio = Ratio::of(&rates(index), &of_two);
        let name = format!("branches, {} in a transaction", COUNTS[index]);
        let figure = Outcome::throughput(&name, side, &sides[0])?;
        let scale = COUNTS[index] as f64;
        Ok(Outcome {
            ours: side.per_second() * scale,
            baseline: Some(sides[0].per_second() * COUNTS[0] as f64),
            ratio: Some(ratio.median),
            unit: "branches/s",
            detail: ratio.rounds(),
            ..figure
        }
        .at(MANY)
        .ratio_wanted(FLAT_THROUGHPUT)
        .detail(&side.processor_time()))
    };
    sides.iter().enumerate().map(outcome).collect()
}
