//! `make bench`: ADD, DEL, bursts, the path, and repair, each beside a peer or a floor in the same run. Writes a table, and
//! JSON for whoever wants to compare builds.

mod before;
mod cni;
mod exec;
mod load;
mod path;
mod repair;
mod sandbox;
mod stats;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::cni::Effort;
use crate::load::Kind;
use crate::stats::Row;

/// Measures Tombolo beside its peers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Inner>,
    /// Directory of the built binaries.
    #[arg(long, default_value = "target/release", overrides_with = "bin")]
    bin: PathBuf,
    /// Directory of an earlier build's binaries: it takes the peer's place, and takes turns with the build.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Where the JSON goes.
    #[arg(
        long,
        default_value = "target/bench/bench.json",
        overrides_with = "out"
    )]
    out: PathBuf,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Runs of each in all rounds together.
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Works when it has the turn only.
    #[arg(long, hide = true)]
    in_turns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cni,
    Path,
    Repair,
}

/// Measures one part; the node and its NICs are gone afterwards.
type Measure = fn(&Path, Effort) -> Result<Vec<Row>>;

/// The path first: for a while after thousands of pods the kernel is busy taking them apart.
const PARTS: [(Part, Measure); 3] = [
    (Part::Path, path::measure),
    (Part::Repair, repair::measure),
    (Part::Cni, cni::measure),
];

#[derive(Debug, Subcommand)]
enum Inner {
    /// Load server.
    #[command(hide = true)]
    Serve { address: SocketAddr },
    /// Load client.
    #[command(hide = true)]
    Call {
        address: SocketAddr,
        kind: String,
        seconds: u64,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.command {
        Some(Inner::Serve { address }) => return load::serve(*address),
        Some(Inner::Call {
            address,
            kind,
            seconds,
        }) => {
            let kind = if kind == "stream" {
                Kind::Stream
            } else {
                Kind::RoundTrips
            };
            println!(
                "{}",
                load::call(*address, kind, Duration::from_secs(*seconds))?
            );
            return Ok(());
        }
        None => {}
    }
    let built = |dir: &Path| {
        dir.canonicalize()
            .with_context(|| format!("{}: build the workspace first", dir.display()))
    };
    let bin = built(&cli.bin)?;
    if let (Some(before), false) = (&cli.before, cli.in_turns) {
        let rows = before::measure(&bin, &built(before)?, &cli.out)?;
        write(&cli.out, &rows)?;
        println!("{}", table(&rows));
        return Ok(());
    }
    if let Some(code) = sandbox::enter()? {
        std::process::exit(code);
    }
    let effort = Effort {
        rounds: cli.rounds,
        runs: cli.runs,
        in_turns: cli.in_turns,
    };
    if cli.in_turns {
        before::wait()?;
    }
    let mut rows = Vec::new();
    for (part, measure) in PARTS {
        if cli.only.is_none_or(|only| only == part) {
            rows.extend(measure(&bin, effort)?);
            // What was measured stays, whatever becomes of the rest.
            write(&cli.out, &rows)?;
        }
    }
    if !cli.in_turns {
        println!("{}", table(&rows));
    }
    Ok(())
}

fn write(path: &Path, rows: &[Row]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("write {}", path.display()))
}

fn table(rows: &[Row]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.set_header([
        "What", "Unit", "Tombolo", "Peer", "", "Floor", "of peer", "of floor", "n",
    ]);
    let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    for row in rows {
        table.add_row([
            row.name.clone(),
            row.unit.clone(),
            number(row.ours),
            number(row.peer),
            row.peer_name.clone().unwrap_or_default(),
            number(row.floor),
            number(row.ratio_peer),
            number(row.ratio_floor),
            row.n.to_string(),
        ]);
    }
    table
}
