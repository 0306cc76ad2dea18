//! Steps from a seed. Pure: the same seed gives the same steps on every machine.

use fastrand::Rng;
use tombolo_lab_vpc::knobs::Knob;

use super::step::{Flushed, Step};

/// A rest follows so many steps.
const REST_EVERY: usize = 25;
/// Calls of the operator that change the cloud.
const CHANGES: [&str; 6] = [
    "CreateNic",
    "AttachNic",
    "AssignAddresses",
    "UnassignAddresses",
    "DetachNic",
    "DeleteNic",
];
const READS: [&str; 2] = ["DescribeNics", "DescribeInstances"];
/// EC2's words for what passes.
const CODES: [&str; 3] = ["RequestLimitExceeded", "InternalError", "Unavailable"];

/// So many steps for a lab with so many nodes; a rest at the end.
#[must_use]
pub fn generate(seed: u64, steps: usize, nodes: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut all: Vec<Step> = (1..steps)
        .map(|n| {
            if n % REST_EVERY == 0 {
                Step::Rest
            } else {
                step(&mut rng, nodes)
            }
        })
        .collect();
    all.push(Step::Rest);
    all
}

fn step(rng: &mut Rng, nodes: usize) -> Step {
    let node = rng.usize(..nodes);
    match rng.u32(..100) {
        0..32 => Step::AddPod { node },
        32..56 => Step::DeletePod {
            nth: rng.usize(..64),
        },
        56..64 => Step::Pass {
            ms: rng.u64(1..2000),
        },
        64..71 => Step::KillAgent { node },
        71..74 => Step::RestartAgent { node },
        74..77 => Step::FreezeAgent { node },
        77..82 => Step::KillOperator,
        82..90 => Step::Flush {
            node,
            what: pick(rng, &Flushed::ALL),
        },
        _ => Step::Cloud { knob: knob(rng) },
    }
}

fn knob(rng: &mut Rng) -> Knob {
    let change = pick(rng, &CHANGES).to_owned();
    let count = rng.u32(1..4);
    match rng.u32(..6) {
        0 => Knob::LoseReply {
            verb: change,
            skip: 0,
            count,
        },
        1 => Knob::LoseRequest {
            verb: change,
            skip: 0,
            count,
        },
        2 => Knob::Fail {
            verb: change,
            code: pick(rng, &CODES).to_owned(),
            skip: 0,
            count,
        },
        3 => Knob::LoseReply {
            verb: pick(rng, &READS).to_owned(),
            skip: 0,
            count,
        },
        4 => Knob::Delay {
            verb: change,
            ms: rng.u64(50..1500),
        },
        _ => Knob::Throttle {
            rate: f64::from(rng.u32(2..8)),
            burst: rng.u32(1..5),
        },
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_steps_and_the_last_is_a_rest() {
        let steps = generate(7, 300, 2);
        assert_eq!(steps, generate(7, 300, 2));
        assert_ne!(steps, generate(8, 300, 2));
        assert_eq!(steps.len(), 300);
        assert_eq!(steps.last(), Some(&Step::Rest));
        let text = serde_json::to_string(&steps).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Step>>(&text).unwrap(), steps);
    }

    #[test]
    fn every_kind_of_step_comes_up() {
        let steps = generate(1, 2000, 2);
        let kinds: std::collections::BTreeSet<String> = steps
            .iter()
            .map(|step| {
                let value = serde_json::to_value(step).unwrap();
                let detail = value.pointer("/what").or(value.pointer("/knob/knob"));
                format!("{} {:?}", value["step"], detail)
            })
            .collect();
        // Five more flush, five turn a knob; the frozen operator is for scenario files.
        assert_eq!(kinds.len(), 8 + 5 + 5, "{kinds:#?}");
    }
}
