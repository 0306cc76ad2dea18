//! Repository tasks: `cargo xtask codegen [--check]`.

mod rpc;

use std::path::Path;

use anyhow::Context;
use clap::Parser;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Writes the files that are generated and committed.
    Codegen {
        /// Write nothing; fail where a committed file differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository's root")?;
    match Task::parse() {
        Task::Codegen { check } => rpc::generate(root, check),
    }
}
