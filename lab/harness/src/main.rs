//! `tombolo-lab`: the lab's one program. Simulator, API server and kubelet stand-in are subcommands of it.

use anyhow::Result;
use clap::Parser as _;
use tombolo_lab::cli::Cli;

fn main() -> Result<()> {
    tombolo_lab::cli::run(Cli::parse())
}
