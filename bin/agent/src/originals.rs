//! Kernel settings as they were before we changed them, in `<run-dir>/sysctls.json`, so that `uninstall` can put them back.
//! The first value seen holds: an agent that restarts must not take its own value for the original.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tombolo_core::datapath::Sysctl;
use tombolo_netlink::sysctl;

use crate::journal::{self, read_versioned, write_versioned};
use crate::steps;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Originals {
    /// Path below `/proc/sys/net` -> value.
    pub values: BTreeMap<String, String>,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("sysctls.json")
}

/// What is known so far.
pub fn read(run_dir: &Path) -> Result<Originals, journal::Error> {
    let path = path(run_dir);
    if path.symlink_metadata().is_err() {
        Ok(Originals::default())
    } else {
        read_versioned(&path)
    }
}

/// Keeps the present value of a setting that is about to change. One that is not there needs no keeping.
pub fn keep(run_dir: &Path, setting: &Sysctl) -> Result<(), journal::Error> {
    let mut originals = read(run_dir)?;
    if originals.values.contains_key(&setting.path) {
        return Ok(());
    }
    if let Ok(value) = sysctl::read(&setting.path) {
        originals.values.insert(setting.path.clone(), value);
        steps::REPAIR_KEEP_SETTING.around(|| write_versioned(&path(run_dir), &originals))?;
    }
    Ok(())
}
