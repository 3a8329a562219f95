//! A run that breaks a claim, to be read.

use std::fmt;

use crate::action::Action;
use crate::claim::Claim;
use crate::configuration::Configuration;
use crate::resolution;
use crate::world::World;

/// What happened, step by step, and what the core did each time.
#[derive(Debug, Clone)]
pub struct Trace {
    claim: Claim,
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn of(rules: &Configuration, actions: Vec<Action>) -> Self {
        let mut world = World::new(rules);
        let mut lines =
            vec![format!("{} branches ({}), {}", rules.kinds.len(), rules.kinds_text(), rules.mode)];
        lines.extend(
            world.owner.transaction.iter().map(|transaction| format!("     {:?}", transaction.state())),
        );
        for action in actions {
            tell(&mut world, action, rules, &mut lines);
        }
        let mut claim = world.broken;
        if claim.is_none() {
            lines.push("     from here on, without faults:".into());
            let (_, rest, broken) = resolution::run(&world, rules);
            world.left = Default::default();
            for action in rest {
                tell(&mut world, action, rules, &mut lines);
            }
            claim = broken;
        }
        let claim = claim.unwrap_or(Claim::Resolution);
        lines.extend(state_of(&world));
        lines.push(format!("BROKEN: {claim}"));
        Trace { claim, lines }
    }

    /// What is broken.
    pub fn claim(&self) -> Claim {
        self.claim
    }
}

fn tell(world: &mut World, action: Action, rules: &Configuration, lines: &mut Vec<String>) {
    world.transcript = Some(Vec::new());
    world.apply(action, rules);
    lines.push(format!("{:>3}  {action}", lines.iter().filter(|line| !line.starts_with("     ")).count()));
    lines.extend(world.transcript.take().into_iter().flatten().map(|effect| format!("         {effect}")));
}

fn state_of(world: &World) -> Vec<String> {
    let state = world.owner.transaction.as_ref().map(|transaction| transaction.state());
    let mut lines = vec![match state {
        Some(state) => format!("     the transaction: {state:?}, told: {:?}", world.told),
        None => format!("     the transaction: unknown, told: {:?}", world.told),
    }];
    for index in world.indices() {
        let one = world.participant(index);
        lines.push(format!("     branch {} ({:?}): {:?}", index + 1, one.kind, one.rm));
    }
    lines
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
