//! Random days, good and bad: pods come and go while agents and operator are killed, kernel state is flushed and the cloud
//! misbehaves. Now and then everything is left in peace, and then the invariant must hold and no node may have more NICs
//! than its pods explain.
//!
//! ```text
//!   seed ──▶ generate ──▶ steps ──▶ run on a lab of its own ──▶ holds
//!            scenario file ──▶        │ fails
//!                                     └─▶ scenario file ──▶ shrink (runs of ever fewer steps) ──▶ shorter scenario file
//! ```

pub mod cloud;
pub mod generate;
pub mod nodes;
pub mod run;
pub mod shrink;
pub mod step;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::residue;
use crate::topology::Topology;
use crate::up;

use generate::generate;
use run::Runner;
use step::Step;

/// Nodes of a torture's lab.
pub const NODES: usize = 2;

/// What is tortured, and how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the lab.
    #[arg(long, default_value = "torture")]
    name: String,
    /// Decides about every step; a random one when absent. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many steps.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Runs the steps of a scenario file instead.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Where the scenario of a failure goes.
    #[arg(long, default_value = "torture.json")]
    out: PathBuf,
    /// Runs at most so many shorter scenarios to find a short one that fails, too.
    #[arg(long, default_value_t = 0)]
    shrink: usize,
}

/// How long a lab may take to come to rest once it is left in peace: retries of kubelet and operator back off.
const REST: Duration = Duration::from_secs(90);

/// The lab that is tortured: two nodes, each with room for 15 pods on three NICs.
#[must_use]
pub fn topology(name: &str) -> Topology {
    let mut topology = Topology::with(name, NODES, "t3.medium", 1);
    topology.profile.pool.warm_min = 1;
    topology.profile.pool.warm_max = 3;
    topology
        .operator_args
        .extend(SHORT_WAITS.map(str::to_owned));
    topology
}

/// The operator's waiting times for what a lab without faults does not meet: less than the time of a rest.
const SHORT_WAITS: [&str; 8] = [
    "--cloud-timeout=3s",
    "--resync=5s",
    "--confirm-after=1s",
    "--stale-grace=5s",
    "--leak-age=5s",
    "--attach-timeout=2s",
    "--lease-duration=5s",
    "--lease-renew=1s",
];

/// `tombolo-lab torture`.
pub async fn command(args: Args) -> Result<()> {
    let steps = if let Some(path) = &args.replay {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("scenario {}", path.display()))?
    } else {
        let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
        println!("seed {seed}, {} steps", args.steps);
        generate(seed, args.steps, NODES)
    };
    let Err(error) = once(&topology(&args.name), &steps, REST).await else {
        println!("{} steps: the invariant held", steps.len());
        return Ok(());
    };
    save(&args.out, &steps)?;
    eprintln!("{error:?}\nscenario: {}", args.out.display());
    if args.shrink > 0 {
        let fails = async |fewer: &[Step]| {
            eprintln!("{} steps again", fewer.len());
            once(&topology(&args.name), fewer, REST).await.is_err()
        };
        let short = shrink::shrink(steps, args.shrink, fails).await;
        save(&args.out, &short)?;
        eprintln!("{} steps suffice: {}", short.len(), args.out.display());
    }
    bail!("the invariant did not hold")
}

fn save(path: &Path, steps: &[Step]) -> Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(steps)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Brings a lab up, takes the steps, and takes it down; what is left afterwards is a failure, too.
pub async fn once(topology: &Topology, steps: &[Step], rest: Duration) -> Result<()> {
    let before = residue::snapshot()?;
    let lab = up::up(topology, false, |_| {}).await?;
    let mut runner = Runner::new(lab, rest)?;
    let outcome = runner.run(steps).await;
    let outcome = outcome.map_err(|error| error.context(up::tails(&runner.lab)));
    runner.awaken()?;
    up::down(&runner.lab)?;
    outcome?;
    let left = residue::left_since(&before)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
