//! Runs cases on a subject: a rig for each tier, made again where a case left it in doubt; and for what a case left behind.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use crate::case::{Case, Inapplicable, Tier};
use crate::cases;
use crate::rig::{Agent, Rig, Snapshot, difference, has_records};
use crate::stage::Stage;
use crate::subject::Subject;
use crate::tools::wait_until;
use crate::version::Version;

/// How a case ended at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not, and this is why.
    Failed(String),
    /// It is not about this plugin.
    Inapplicable(String),
}

/// One case at one version.
#[derive(Clone, Debug)]
pub struct Line {
    /// The case.
    pub case: &'static Case,
    /// The version; `None` where the plugin speaks none that the case is about.
    pub version: Option<Version>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A subject and all that was tried on it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub subject: String,
    /// The versions that it speaks.
    pub versions: Vec<Version>,
    /// Tier by tier.
    pub lines: Vec<Line>,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these tiers; empty: all.
    pub tiers: Vec<Tier>,
    /// Only cases whose name holds this.
    pub name: String,
}

impl Selection {
    fn takes(&self, case: &Case) -> bool {
        let tier = self.tiers.is_empty() || self.tiers.contains(&case.tier);
        tier && case.name.contains(&self.name)
    }
}

/// A case over all its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// It holds at each.
    Passed,
    /// It does not hold at these.
    Failed(Vec<Version>),
    /// It is not about this plugin.
    Inapplicable(String),
}

impl Report {
    /// How a case ended, over all versions.
    #[must_use]
    pub fn cell(&self, case: &Case) -> Cell {
        let lines = || self.lines.iter().filter(|line| line.case.name == case.name);
        let failed = lines().filter(|line| matches!(line.outcome, Outcome::Failed(_)));
        let failed: Vec<_> = failed.filter_map(|line| line.version).collect();
        if !failed.is_empty() {
            return Cell::Failed(failed);
        }
        if lines().any(|line| line.outcome == Outcome::Passed) {
            return Cell::Passed;
        }
        let why = lines().find_map(|line| match &line.outcome {
            Outcome::Inapplicable(why) => Some(why.clone()),
            _ => None,
        });
        Cell::Inapplicable(why.unwrap_or_else(|| "it was not run".to_owned()))
    }

    /// Names of the cases that failed at any version.
    #[must_use]
    pub fn failed(&self) -> BTreeSet<&'static str> {
        let failed = |line: &&Line| matches!(line.outcome, Outcome::Failed(_));
        self.lines
            .iter()
            .filter(failed)
            .map(|line| line.case.name)
            .collect()
    }

    /// The failures of a case, for people.
    #[must_use]
    pub fn why(&self, case: &str) -> Vec<String> {
        let lines = self.lines.iter().filter(|line| line.case.name == case);
        let told = lines.filter_map(|line| match (&line.outcome, line.version) {
            (Outcome::Failed(why), Some(version)) => Some(format!("{version}: {why}")),
            _ => None,
        });
        told.collect()
    }
}

/// Programs without which a tier cannot run.
const PROGRAMS: [(&str, Tier); 8] = [
    ("nsenter", Tier::Netns),
    ("ip", Tier::Netns),
    ("nft", Tier::Netns),
    ("ping", Tier::Netns),
    ("mkfifo", Tier::Fault),
    ("tc", Tier::Chain),
    ("iptables", Tier::Chain),
    ("/usr/lib/cni/ptp", Tier::Chain),
];

/// Why a tier cannot run here, where it cannot.
#[must_use]
pub fn obstacle(tier: Tier) -> Option<String> {
    if tier > Tier::Protocol && !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let there = |program: &str| {
        path.split(':')
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let missing = |entry: &&(&str, Tier)| tier >= entry.1 && !there(entry.0);
    PROGRAMS
        .iter()
        .find(missing)
        .map(|(program, _)| format!("there is no {program}"))
}

/// Runs what is selected; tells of each line as it comes.
///
/// # Errors
/// Where the subject does not say its versions, or nothing can be tried on it.
pub fn run(
    subject: &Subject,
    selection: &Selection,
    tell: &mut dyn FnMut(&Line),
) -> Result<Report> {
    let versions = subject.versions()?;
    let mut report = Report {
        subject: subject.name.clone(),
        versions: versions.clone(),
        lines: Vec::new(),
    };
    let newest = versions.last().copied().context("no version")?;
    let mut rig = None;
    let mut tier = Tier::Protocol;
    // Tier by tier: a rig serves all cases of one.
    let mut selected: Vec<_> = cases::all().filter(|case| selection.takes(case)).collect();
    selected.sort_by_key(|case| case.tier);
    for case in selected {
        if case.tier != tier {
            (rig, tier) = (None, case.tier);
        }
        let mut line = |version, outcome| {
            let line = Line {
                case,
                version,
                outcome,
            };
            tell(&line);
            report.lines.push(line);
        };
        let tried = case.versions(&versions);
        if tried.is_empty() {
            let why = format!("it does not speak {} to {}", case.since, case.until);
            line(None, Outcome::Inapplicable(why));
        }
        for version in tried {
            let tried = attempt(case, version, newest, subject, &mut rig)?;
            line(Some(version), tried);
        }
    }
    Ok(report)
}

/// A rig and what was on its node when it was clean.
struct Clean {
    rig: Rig,
    snapshot: Option<Snapshot>,
}

impl Clean {
    fn new(subject: &Subject, tier: Tier, version: Version) -> Result<Self> {
        if tier == Tier::Protocol {
            let rig = Rig::plain(subject)?;
            return Ok(Self {
                rig,
                snapshot: None,
            });
        }
        let rig = Rig::with_node(subject, version)?;
        // What the first attachments left by design is there; what is left in the background goes.
        let mut snapshot = rig.snapshot()?;
        wait_until("the node comes to rest", || {
            let next = rig.snapshot()?;
            let rests = next == snapshot && !has_records(&next);
            snapshot = next;
            Ok(rests)
        })
        .with_context(|| rig.agent().map(Agent::log).unwrap_or_default())?;
        Ok(Self {
            rig,
            snapshot: Some(snapshot),
        })
    }

    /// What is left of a case, when all had its time.
    fn left(&self) -> Result<Vec<String>> {
        let Some(before) = &self.snapshot else {
            return Ok(Vec::new());
        };
        let mut left = Vec::new();
        let waited = wait_until("nothing is left", || {
            left = difference(before, &self.rig.snapshot()?);
            Ok(left.is_empty())
        });
        if left.is_empty() {
            waited?;
        }
        Ok(left)
    }
}

fn attempt(
    case: &Case,
    version: Version,
    newest: Version,
    subject: &Subject,
    kept: &mut Option<Clean>,
) -> Result<Outcome> {
    let mut clean = match kept.take() {
        // In the fault tier each case has a rig of its own.
        Some(clean) if case.tier != Tier::Fault => clean,
        _ => Clean::new(subject, case.tier, newest).context("set up")?,
    };
    let mut stage = Stage {
        rig: &mut clean.rig,
        version,
    };
    let outcome = match (case.attempt)(&mut stage) {
        Err(error) if error.is::<Inapplicable>() => Outcome::Inapplicable(error.to_string()),
        Err(error) => return Ok(Outcome::Failed(format!("{error:#}"))),
        Ok(()) if case.tier == Tier::Fault => Outcome::Passed,
        Ok(()) => match clean.left()?.as_slice() {
            [] => Outcome::Passed,
            left => return Ok(Outcome::Failed(format!("it leaves {}", left.join("; ")))),
        },
    };
    if let Some(fake) = &clean.rig.fake {
        drop(fake.asked());
        fake.answer(crate::rig::Script::Succeed);
    }
    *kept = Some(clean);
    Ok(outcome)
}
