//! Writing and comparing of generated files.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

/// Writes `text` to `path` below `root`; with `check`, only compares and fails where the committed file differs.
pub fn write(root: &Path, path: &str, text: &str, check: bool) -> anyhow::Result<()> {
    let target = root.join(path);
    if check {
        let committed = fs::read_to_string(&target).with_context(|| format!("read {path}"))?;
        if committed != text {
            bail!(
                "{path} differs from what its source generates: run `cargo xtask codegen` and commit"
            );
        }
        return Ok(());
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(&target, text).with_context(|| format!("write {path}"))
}
