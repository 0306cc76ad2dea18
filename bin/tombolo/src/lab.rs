//! `tombolo lab`: becomes `tombolo-lab`. The lab is a program of its own, so that nothing of it is in this one.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// The program.
const PROGRAM: &str = "tombolo-lab";

/// What is handed over.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Arguments of tombolo-lab.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Replaces this process. Returns only when that fails.
pub fn run(args: Args) -> anyhow::Result<()> {
    let program = find()?;
    let error = Command::new(&program).args(args.args).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

/// Beside this program, else in PATH.
fn find() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("find the folder of this program")?;
    let folders = own.parent().map(PathBuf::from).into_iter();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = folders
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(PROGRAM));
    match candidates.find(|candidate| candidate.is_file()) {
        Some(program) => Ok(program),
        None => bail!(
            "{PROGRAM} is neither beside {} nor in PATH: it is built by `make build`",
            own.display()
        ),
    }
}
