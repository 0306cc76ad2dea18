//! The node agent. Owns the node's address pool, the wiring of its pods, and all of Tombolo's kernel state on it.
//!
//! ```text
//!   rpc ──▶ attach, detach, check, gc ▶ pool (addresses)      standalone ┐
//!                   │      │                                 cluster   ┴─▶ node.plan ──▶ resync ──▶ kernel
//!                   │      └──▶ reaper (links go, addresses cool)                           ▲
//!                   └─▶ journal, kernels (blocking work)         watch (notifications) ─────┘
//! ```
//! Start in this order: restore, wire the node, serve. The end of the process changes nothing in the kernel.
#![forbid(unsafe_code)]

mod attach;
mod availability;
mod check;
mod clock;
mod cluster;
mod config;
mod conflicts;
mod conflist;
mod detach;
mod error;
mod firewall;
mod gate;
mod gc;
mod host_ports;
mod http;
mod inotify;
mod join;
mod journal;
mod kernel_rules;
mod kernels;
mod keys;
mod lost;
mod metrics;
mod node;
mod notes;
mod originals;
mod pod_mtu;
mod pool;
mod privileges;
mod reaper;
mod restore;
mod resync;
mod rpc;
mod run;
mod sandboxes;
mod scrub;
mod spec;
mod standalone;
mod steps;
mod uninstall;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use config::{Cli, Command, Config, LogFormat, RunArgs};
use tracing_subscriber::EnvFilter;

/// Threads for files besides those for the kernel. Each costs memory for good, and one waits for none of the others.
const FILES: usize = 4;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    if tombolo_failpoint::list_if_asked(arguments, &steps::TABLES) {
        return ExitCode::SUCCESS;
    }
    match command(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tombolo-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(cli: Cli) -> anyhow::Result<()> {
    tombolo_failpoint::arm(cli.failpoint, &steps::TABLES)?;
    privileges::restrict()?;
    match cli.command {
        Command::Run(args) => run(&args),
        Command::Uninstall(args) => uninstall::uninstall(&args.run_dir),
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = Config::try_from(args)?;
    let filter: EnvFilter = args.log.parse()?;
    // Whoever reads the log may go away; that must not end us, as a complaint on a closed standard error would.
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(kernels::WIDTH + FILES)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run::run(config));
    // Blocking work that is under way ends; nothing new begins.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result.map(drop)
}
