//! 300 random steps hold; a scenario in which they cannot is found out, and what matters of it is found.

use std::time::Duration;

use tombolo_lab::torture::generate::generate;
use tombolo_lab::torture::step::Step;
use tombolo_lab::torture::{NODES, once, topology};

use crate::support::{bin_dir, run_alone};

fn torture(name: &str, steps: &[Step], rest: Duration) -> Option<anyhow::Result<()>> {
    run_alone(name, async || {
        let mut topology = topology(name);
        topology.bin_dir = Some(bin_dir());
        once(&topology, steps, rest).await
    })
}

#[test]
fn three_hundred_random_steps_hold() {
    let steps = generate(20_261_121, 300, NODES);
    if let Some(Err(error)) = torture("torture", &steps, Duration::from_secs(90)) {
        panic!("{error:?}");
    }
}

#[test]
fn what_cannot_hold_is_found_out() {
    let mut steps = vec![Step::Rest, Step::FreezeOperator];
    // More than a node has in store.
    steps.extend([const { Step::AddPod { node: 0 } }; 7]);
    steps.push(Step::Rest);
    if let Some(outcome) = torture("tortured", &steps, Duration::from_secs(5)) {
        let error = format!("{:?}", outcome.unwrap_err());
        assert!(error.contains("step 9: Rest"), "{error}");
    }
}
