//! `tombolo-lab`: the lab's one program. Simulator, API server and kubelet stand-in are subcommands of it.

use std::process::ExitCode;

use clap::Parser as _;
use tombolo_lab::cli::Cli;

fn main() -> ExitCode {
    match tombolo_lab::cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes included; a backtrace helps nobody who reads a lab's output.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
