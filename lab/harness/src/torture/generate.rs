//! Steps from a seed. Pure: the same seed gives the same steps on every machine.

use fastrand::Rng;
use tombolo_lab_vpc::knobs::Knob;
use tombolo_lab_vpc::knobs::faults::{Corruption, Fault};

use super::step::{Flushed, Meddling, Step};

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
const SPOILT: [Corruption; 6] = [
    Corruption::Cut,
    Corruption::Truncate,
    Corruption::Empty,
    Corruption::Garbage,
    Corruption::Shape,
    Corruption::Page,
];

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
    match rng.u32(..200) {
        0..62 => Step::AddPod { node },
        62..108 => Step::DeletePod {
            nth: rng.usize(..64),
        },
        108..122 => Step::Pass {
            ms: rng.u64(1..2000),
        },
        122..132 => Step::KillAgent { node },
        132..136 => Step::RestartAgent { node },
        136..141 => Step::FreezeAgent { node },
        141..147 => Step::StopAgent { node },
        147..149 => Step::LoseJournal { node },
        149..151 => Step::Reboot { node },
        151..154 => Step::BackupApi,
        154..156 => Step::RestoreApi,
        156..164 => Step::KillOperator,
        164..177 => Step::Flush {
            node,
            what: pick(rng, &Flushed::ALL),
        },
        177..183 => Step::Meddle {
            what: pick(rng, &Meddling::ALL),
            nth: rng.usize(..64),
            to: rng.usize(..64),
        },
        183..185 => Step::HideNic {
            nth: rng.usize(..64),
            replies: rng.u32(1..4),
        },
        _ => Step::Cloud { knob: knob(rng) },
    }
}

/// A knob; none that lasts beyond the rest.
fn knob(rng: &mut Rng) -> Knob {
    let call = Call {
        verb: pick(rng, &CHANGES).to_owned(),
        count: rng.u32(1..4),
        skip: rng.u32(..2),
    };
    let read = Call {
        verb: pick(rng, &READS).to_owned(),
        ..call.clone()
    };
    match rng.u32(..16) {
        0 => call.fault(Fault::LoseReply),
        1 => call.fault(Fault::LoseRequest),
        2 => call.fault(Fault::Fail(pick(rng, &CODES).to_owned())),
        3 => read.fault(Fault::LoseReply),
        4 => call.fault(Fault::HoldReply),
        5 => call.fault(Fault::RepeatReply),
        6 => call.fault(Fault::RepeatRequest),
        7 => call.fault(Fault::CorruptReply(pick(rng, &SPOILT))),
        8 => read.fault(Fault::CorruptReply(pick(rng, &SPOILT))),
        9 => Knob::Delay {
            verb: call.verb,
            ms: rng.u64(50..1500),
        },
        10 => Knob::Throttle {
            rate: f64::from(rng.u32(2..8)),
            burst: rng.u32(1..5),
        },
        11 => Knob::ThrottleVerb {
            verb: call.verb,
            rate: 1.0,
            burst: 1,
        },
        12 if rng.bool() => Knob::FailAttach { count: 1 },
        12 => Knob::StickAttach { count: 1 },
        13 => Knob::HalfAssign { count: call.count },
        14 => Knob::Stale {
            verb: read.verb,
            ms: rng.u64(500..20_000),
        },
        _ if rng.bool() => Knob::OmitNics {
            one_in: rng.u32(1..4),
            replies: rng.u32(1..4),
        },
        _ => Knob::OmitAddresses {
            one_in: rng.u32(1..4),
            replies: rng.u32(1..4),
        },
    }
}

/// Which calls meet a fault.
#[derive(Clone, Debug)]
struct Call {
    verb: String,
    count: u32,
    skip: u32,
}

impl Call {
    fn fault(self, fault: Fault) -> Knob {
        let Self { verb, count, skip } = self;
        match fault {
            Fault::LoseReply => Knob::LoseReply { verb, count, skip },
            Fault::LoseRequest => Knob::LoseRequest { verb, count, skip },
            Fault::HoldReply => Knob::HoldReply { verb, count, skip },
            Fault::RepeatReply => Knob::RepeatReply { verb, count, skip },
            Fault::RepeatRequest => Knob::RepeatRequest { verb, count, skip },
            Fault::CorruptReply(how) => Knob::CorruptReply {
                verb,
                how,
                count,
                skip,
            },
            Fault::Fail(code) => Knob::Fail {
                verb,
                code,
                count,
                skip,
            },
        }
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
        // The frozen operator and two kinds of flushing are for scenario files.
        let (others, knobs) = (14, 16);
        let wanted = others + Flushed::ALL.len() + Meddling::ALL.len() + knobs;
        assert_eq!(kinds.len(), wanted, "{kinds:#?}");
    }
}
