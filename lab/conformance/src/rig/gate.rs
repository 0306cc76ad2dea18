//! A delegate that waits in the middle of its ADD until it is let go, then does what host-local does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::subject::DEBIAN;
use crate::tools::{run, wait_until};

/// Its `type`.
pub const NAME: &str = "conformance-gate";

/// Puts it into the folder.
///
/// # Errors
/// Where that cannot be written.
pub fn set_up(bin: &Path) -> Result<()> {
    let (entered, fifo) = (bin.join("entered"), bin.join("fifo"));
    let (entered, fifo) = (entered.display(), fifo.display());
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$CNI_COMMAND\" = ADD ]; then : >{entered}; read go <{fifo}; fi\n\
         {DEBIAN}/host-local; code=$?\n\
         if [ \"$CNI_COMMAND\" = ADD ]; then : >{entered}.done; fi\n\
         exit $code\n"
    );
    write(bin, NAME, &script)?;
    run("mkfifo", &[format!("{fifo}")]).map(drop)
}

/// Writes a script that can be called.
///
/// # Errors
/// Where it cannot be written.
pub fn write(bin: &Path, name: &str, script: &str) -> Result<()> {
    std::fs::create_dir_all(bin).context("make a folder for programs")?;
    let path = bin.join(name);
    std::fs::write(&path, script).context("write a script")?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).context("make a script executable")
}

/// Waits until it is called.
///
/// # Errors
/// Where it is not.
pub fn await_entered(bin: &Path) -> Result<()> {
    wait_until("the delegate is called", || {
        Ok(bin.join("entered").exists())
    })
}

/// Lets it go on, and waits until it has done all, though nobody may wait for its answer.
///
/// # Errors
/// Where it does not.
pub fn open(bin: &Path) -> Result<()> {
    std::fs::write(bin.join("fifo"), "go\n").context("open the gate")?;
    wait_until("the delegate goes on", || {
        Ok(bin.join("entered.done").exists())
    })
}
