//! What a case is: its name, the claims that it shows, where it can run, and the function that tries it.

use std::fmt;

use anyhow::Result;

use crate::stage::Stage;
use crate::version::Version;

/// What a case needs around the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing: no privilege, no network; an agent that answers by script where the plugin has one.
    Protocol,
    /// A node and pods in namespaces of their own.
    Netns,
    /// The same, and Debian's chained plugins.
    Chain,
    /// The same, freshly made: something dies or is silent.
    Fault,
    /// The same, beside Debian's `ptp` and `bridge`.
    Differential,
}

impl Tier {
    /// All, the least demanding first.
    pub const ALL: [Self; 5] = [
        Self::Protocol,
        Self::Netns,
        Self::Chain,
        Self::Fault,
        Self::Differential,
    ];

    /// As on the command line and on the page.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Netns => "netns",
            Self::Chain => "chain",
            Self::Fault => "fault",
            Self::Differential => "differential",
        }
    }
}

/// Tries a plugin; an error says what does not hold.
pub type Try = fn(&mut Stage<'_>) -> Result<()>;

/// A case.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence with underscores.
    pub name: &'static str,
    /// Where it runs.
    pub tier: Tier,
    /// Ids of the claims that it shows.
    pub claims: &'static [&'static str],
    /// The case of CNI's own test suites that it was ported from, in their words.
    pub ported: &'static [&'static str],
    /// First version that it is about.
    pub since: Version,
    /// Last version that it is about.
    pub until: Version,
    /// Whether the newest of these versions will do: nothing in it depends on the version.
    pub once: bool,
    /// What it does.
    pub attempt: Try,
}

/// A case of every version.
pub const fn case(
    tier: Tier,
    name: &'static str,
    claims: &'static [&'static str],
    attempt: Try,
) -> Case {
    Case {
        name,
        tier,
        claims,
        ported: &[],
        since: Version::V0_3_0,
        until: Version::V1_1_0,
        once: false,
        attempt,
    }
}

impl Case {
    /// Ported from these.
    #[must_use]
    pub const fn ported(mut self, names: &'static [&'static str]) -> Self {
        self.ported = names;
        self
    }

    /// From this version on.
    #[must_use]
    pub const fn since(mut self, version: Version) -> Self {
        self.since = version;
        self
    }

    /// Up to this version.
    #[must_use]
    pub const fn until(mut self, version: Version) -> Self {
        self.until = version;
        self
    }

    /// Only at the newest version.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// The versions at which to try a plugin that speaks these (the oldest first).
    #[must_use]
    pub fn versions(&self, spoken: &[Version]) -> Vec<Version> {
        let fits = |version: &Version| (self.since..=self.until).contains(version);
        let mut versions: Vec<_> = spoken.iter().copied().filter(fits).collect();
        if self.once && versions.len() > 1 {
            versions.drain(..versions.len() - 1);
        }
        versions
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The case does not apply to this plugin: as an error, because it ends the case.
#[derive(Debug)]
pub struct Inapplicable(pub String);

impl fmt::Display for Inapplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Inapplicable {}

/// Ends a case that does not apply.
#[must_use]
pub fn inapplicable(why: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Inapplicable(why.into()))
}
