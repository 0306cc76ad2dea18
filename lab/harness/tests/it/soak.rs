//! 1,000 pods come and go on one node, and nothing grows. `make soak` does the same with 20,000.

use tombolo_lab::soak::{self, Args, judge};

use crate::support::{bin_dir, run_alone};

/// T20 of the acceptance page, as far as there is something that could grow.
#[test]
fn t20_nothing_grows_over_1000_pods() {
    let pairs = std::env::var("SOAK_PAIRS").map_or(1000, |n| n.parse().unwrap());
    let args = Args {
        name: "soak".to_owned(),
        pairs,
        rounds: 10,
        lanes: 8,
        pause_file: None,
    };
    let outcome = run_alone("soak", async || {
        let mut topology = soak::topology(&args.name);
        topology.bin_dir = Some(bin_dir());
        soak::once(&topology, &args).await
    });
    let Some(outcome) = outcome else { return };
    let samples = outcome.unwrap_or_else(|error| panic!("{error:?}"));
    println!("{}", judge::table(&samples));
    assert_eq!(samples.last().map(|s| s.after), Some(pairs));
    let grown = judge::grown(&samples);
    assert!(grown.is_empty(), "{}", grown.join("\n"));
}
