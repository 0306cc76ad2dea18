//! Thousands of ADDs and DELs on one node; nothing may grow. After every round everything is left to come to rest, and then
//! tools that share no code with the product count what there is. The mean of the first tenth of the counts is compared
//! with that of the last tenth.
//!
//! ```text
//!   lab of one node ──▶ round: so many pods, several at a time ([`worker`]) ──▶ rest ──▶ count ([`sample`]) ─┐
//!                            ▲                                                                               │
//!                            └───────────────────────────────────────────────────────────────────────────────┘
//!                                                            after the last one: first against last ([`judge`])
//! ```

pub mod judge;
pub mod sample;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::check::{self, gather};
use crate::kubeapi::Api;
use crate::residue;
use crate::state::Lab;
use crate::topology::Topology;
use crate::up;

use sample::Sample;
use worker::Worker;

/// What is soaked, and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the lab.
    #[arg(long, default_value = "soak")]
    pub name: String,
    /// How many ADDs, each with its DEL.
    #[arg(long, default_value_t = 20_000)]
    pub pairs: usize,
    /// Rounds; everything is counted after each.
    #[arg(long, default_value_t = 40)]
    pub rounds: usize,
    /// Pods at a time.
    #[arg(long, default_value_t = 8)]
    pub lanes: usize,
    /// Held back between two rounds as long as this file exists, so that somebody else can use the machine.
    #[arg(long)]
    pub pause_file: Option<PathBuf>,
}

/// How long the node may take to come to rest after a round.
const REST: Duration = Duration::from_secs(60);
/// Free addresses that the node keeps, a family: four NICs with 14 each.
const WARM: u32 = 56;

/// The lab: one node that keeps all addresses that it can have, so that NICs neither come nor go.
#[must_use]
pub fn topology(name: &str) -> Topology {
    let mut topology = Topology::with(name, 1, "m5.xlarge", 0);
    topology.nodes[0].max_pods = Some(WARM);
    topology.profile.pool.warm_min = WARM;
    topology.profile.pool.warm_max = WARM;
    topology.profile.pool.cooling_seconds = 1;
    topology.profile.pool.churn_window_seconds = 1;
    topology
}

/// `tombolo-lab soak`.
pub async fn command(args: Args) -> Result<()> {
    let samples = once(&topology(&args.name), &args).await?;
    println!("{}", judge::table(&samples));
    let grown = judge::grown(&samples);
    ensure!(grown.is_empty(), "{}", grown.join("\n"));
    println!("{} ADDs and DELs: nothing grew", args.pairs);
    Ok(())
}

/// Brings the lab up, soaks it, and takes it down; what is left afterwards is a failure, too. Returns what was counted.
pub async fn once(topology: &Topology, args: &Args) -> Result<Vec<Sample>> {
    let before = residue::snapshot()?;
    let lab = up::up(topology, false, |_| {}).await?;
    let outcome = soak(&lab, args).await;
    let outcome = outcome.map_err(|error| error.context(up::tails(&lab)));
    up::down(&lab)?;
    let samples = outcome?;
    let left = residue::left_since(&before)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(samples)
}

async fn soak(lab: &Lab, args: &Args) -> Result<Vec<Sample>> {
    let rounds = args.rounds.clamp(1, args.pairs.max(1));
    let mut worker = Worker::start(lab, &lab.nodes[0], args.lanes)?;
    rest(lab).await?;
    let mut samples = Vec::new();
    let mut done = 0;
    for round in 1..=rounds {
        while args.pause_file.as_ref().is_some_and(|file| file.exists()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let until = args.pairs * round / rounds;
        let times = worker.round(done..until).await?;
        done = until;
        rest(lab)
            .await
            .with_context(|| format!("after {done} pods"))?;
        let sample = sample::take(lab, done)
            .await
            .with_context(|| format!("count after {done} pods"))?;
        eprintln!("{done} pods: {times}");
        samples.push(sample);
    }
    worker.end().await?;
    Ok(samples)
}

/// Waits until nothing of any pod is left, no address rests, and the invariant holds with as many addresses as ever.
async fn rest(lab: &Lab) -> Result<()> {
    let api = Api::new(&lab.api_url)?;
    let node = &lab.nodes[0];
    let begin = Instant::now();
    loop {
        let why = busy(lab, &api).await?;
        let Some(why) = why else { return Ok(()) };
        ensure!(
            begin.elapsed() < REST,
            "{} does not come to rest: {why}",
            node.name
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is still going on; the cheap questions first.
async fn busy(lab: &Lab, api: &Api) -> Result<Option<String>> {
    let node = &lab.nodes[0];
    for dir in ["journal", "cooling", "pending-del"] {
        let path = node.path("/run/tombolo").join(dir);
        let entries = std::fs::read_dir(&path).map_or(0, Iterator::count);
        if entries > 0 {
            return Ok(Some(format!("{entries} files in {dir}")));
        }
    }
    let endpoints = api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await?;
    if !endpoints.is_empty() {
        return Ok(Some(format!("{} PodEndpoints", endpoints.len())));
    }
    let snapshot = gather::gather(lab).await?;
    let pool = &snapshot.nodes.get(&node.name).context("the node")?.pool;
    let wanted = usize::try_from(2 * WARM)?;
    if pool.len() != wanted {
        return Ok(Some(format!(
            "{} addresses in the pool, not {wanted}",
            pool.len()
        )));
    }
    let violations = check::clauses::judge(&snapshot);
    Ok(violations.first().map(ToString::to_string))
}
