//! Runs `ip` and `nft`. The lab depends on iproute2 and nftables by decision: the fabric must not share code with the product
//! that it tests.

use std::io::Write;
use std::process::{Command, Stdio};

/// A program that could not run or failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started, fed or waited for.
    #[error("run {command}")]
    Run {
        /// Program and arguments.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{command} failed ({status}): {stderr}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
}

/// Runs a program in the calling thread's namespaces, feeds it `input` and returns what it printed.
///
/// # Errors
/// See [`CommandError`].
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, CommandError> {
    let command = || format!("{program} {}", arguments.join(" "));
    let failed = |source| CommandError::Run {
        command: command(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Both programs read all input before they print anything.
    let fed = child
        .stdin
        .take()
        .map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(CommandError::Failed {
            command: command(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    fed.map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs lines through one `ip -batch`; stops at the first that fails.
///
/// # Errors
/// See [`CommandError`].
pub fn ip_batch(lines: &str) -> Result<(), CommandError> {
    if lines.is_empty() {
        Ok(())
    } else {
        run("ip", &["-batch", "-"], lines).map(drop)
    }
}

/// Applies an nft script as one transaction.
///
/// # Errors
/// See [`CommandError`].
pub fn nft(script: &str) -> Result<(), CommandError> {
    if script.is_empty() {
        Ok(())
    } else {
        run("nft", &["-f", "-"], script).map(drop)
    }
}
