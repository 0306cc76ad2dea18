//! Repository tasks: `cargo xtask arch`, `cargo xtask codegen [--check]`.

#[cfg(test)]
mod acceptance;
mod arch;
mod configuration;
mod crd;
#[cfg(test)]
mod deploy;
mod generated;
mod rbac;
mod rpc;

use std::path::Path;

use anyhow::Context;
use clap::Parser;

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Checks what may depend on what, and what core and the plugin may use.
    Arch,
    /// Writes the files that are generated and committed.
    Codegen {
        /// Write nothing; fail where a committed file differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the repository's root")?;
    match Task::parse() {
        Task::Arch => arch::check(root),
        Task::Codegen { check } => {
            rpc::generate(root, check)?;
            crd::generate(root, check)?;
            rbac::generate(root, check)?;
            configuration::generate(root, check)
        }
    }
}
