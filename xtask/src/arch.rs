//! The tier check: what may depend on what, and what core and the plugin may use.
//!
//! | file | checks | reads |
//! |---|---|---|
//! | `packages.rs` | bin → edge → core; nothing depends on lab, bench or model; edges apart | `cargo metadata` |
//! | `closure.rs` | what the plugin links | `cargo tree` |
//! | `paths.rs` | which paths a source file names | tokens, so that comments and strings do not count |
//! | `points.rs` | that every write of the programs goes through a failpoint | tokens |
//! | `sources.rs` | what core and the plugin must not name, core's folders, length of files | the sources |
//!
//! Every ban has a fixture below `xtask/fixtures` that breaks it, and a test that sees it break.

mod closure;
mod packages;
mod paths;
mod points;
mod sources;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use anyhow::bail;

/// What is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ban {
    /// Core reads the clock.
    Clock,
    /// Core does input or output.
    Io,
    /// Core reads its environment.
    Environment,
    /// Core depends on chance (the default hasher of `HashMap` is seeded at random).
    Randomness,
    /// Core is asynchronous.
    Async,
    /// Core starts threads.
    Threads,
    /// A folder of core uses one that it must not know.
    Folders,
    /// The plugin starts a process, or a thread.
    PluginChildren,
    /// A package depends on one of a higher tier, or of its own.
    Tiers,
    /// A package depends on one of lab, bench or the model.
    Lab,
    /// The plugin links what it must not.
    PluginLinks,
    /// A source file is too long.
    Length,
    /// A write that no test can end the program at.
    Points,
}

impl Ban {
    /// Every ban.
    #[cfg(test)]
    const ALL: [Self; 13] = [
        Self::Clock,
        Self::Io,
        Self::Environment,
        Self::Randomness,
        Self::Async,
        Self::Threads,
        Self::Folders,
        Self::PluginChildren,
        Self::Tiers,
        Self::Lab,
        Self::PluginLinks,
        Self::Length,
        Self::Points,
    ];

    /// The word for reports and names of fixtures.
    const fn word(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Io => "io",
            Self::Environment => "environment",
            Self::Randomness => "randomness",
            Self::Async => "async",
            Self::Threads => "threads",
            Self::Folders => "folders",
            Self::PluginChildren => "plugin-children",
            Self::Tiers => "tiers",
            Self::Lab => "lab",
            Self::PluginLinks => "plugin-links",
            Self::Length => "length",
            Self::Points => "points",
        }
    }
}

/// One breach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    /// File and line, or package.
    place: String,
    ban: Ban,
    /// What was found there.
    found: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.ban.word(), self.found)
    }
}

/// Checks the repository at `root`, prints every breach and fails if there is one.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let edges = packages::read(root)?;
    let linked = closure::read(root)?;
    let files = sources::read(root)?;

    let mut breaches = packages::breaches(&edges);
    breaches.extend(closure::breaches(&linked));
    for file in &files {
        breaches.extend(sources::breaches(file)?);
        breaches.extend(points::breaches(file)?);
    }
    breaches.sort();
    for breach in &breaches {
        eprintln!("{breach}");
    }
    println!(
        "arch: {} dependencies inside the workspace, {} packages in the plugin, {} source files, {} breaches",
        edges.len(),
        linked.len(),
        files.len(),
        breaches.len()
    );
    if !breaches.is_empty() {
        bail!(
            "{} breaches of the architecture (docs/ARCHITECTURE.md)",
            breaches.len()
        );
    }
    Ok(())
}
