//! tombolo-conformance: tries CNI plugins, prints a table, exits 1 where a case fails.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tombolo_lab_conformance::case::Tier;
use tombolo_lab_conformance::run::{Line, Outcome, Report, Selection, obstacle, run};
use tombolo_lab_conformance::subject::Subject;
use tombolo_lab_conformance::{cases, page};

/// Tries CNI plugins against the specification and what runtimes rely on.
#[derive(Debug, Parser)]
#[command(name = "tombolo-conformance", version)]
struct Cli {
    /// The plugin to try.
    #[arg(long, requires = "conf")]
    plugin: Option<PathBuf>,
    /// Its network configuration (one plugin, JSON); `cniVersion`, `name` and `type` are replaced.
    #[arg(long, requires = "plugin")]
    conf: Option<PathBuf>,
    /// A plugin of which the suite knows how it is set up: `tombolo`, `ptp` or `bridge`. May be repeated.
    #[arg(long = "subject", value_name = "NAME", conflicts_with = "plugin")]
    subjects: Vec<String>,
    /// The folder of Tombolo's programs; this program's own when absent.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Only this tier. May be repeated.
    #[arg(long = "tier")]
    tiers: Vec<TierArg>,
    /// Only cases whose name holds this.
    #[arg(long, default_value = "")]
    case: String,
    /// Lists the cases.
    #[arg(long)]
    list: bool,
    /// Runs all that is known and writes the page about it to this file.
    #[arg(long, conflicts_with_all = ["plugin", "subjects", "tiers"])]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierArg {
    Protocol,
    Netns,
    Chain,
    Fault,
    Differential,
}

impl TierArg {
    const fn tier(self) -> Tier {
        match self {
            Self::Protocol => Tier::Protocol,
            Self::Netns => Tier::Netns,
            Self::Chain => Tier::Chain,
            Self::Fault => Tier::Fault,
            Self::Differential => Tier::Differential,
        }
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for case in cases::all() {
            println!(
                "{:12} {:60} {}",
                case.tier.word(),
                case.name,
                case.claims.join(" ")
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut selection = Selection {
        tiers: cli.tiers.iter().map(|tier| tier.tier()).collect(),
        name: cli.case.clone(),
    };
    let all = selection.tiers.is_empty();
    if all {
        selection.tiers = Tier::ALL.to_vec();
    }
    for tier in selection.tiers.clone() {
        if let Some(why) = obstacle(tier) {
            ensure!(all && cli.page.is_none(), "tier {}: {why}", tier.word());
            println!("not run: tier {}: {why}", tier.word());
            selection.tiers.retain(|other| *other != tier);
        }
    }
    let mut reports = Vec::new();
    for subject in subjects(&cli)? {
        reports.push(run(&subject, &selection, &mut |line| {
            print(&subject.name, line)
        })?);
    }
    if let Some(path) = &cli.page {
        let text = page::page(&reports);
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for report in &reports {
        summary(report);
    }
    let failed = cli.page.is_none() && reports.iter().any(|report| !report.failed().is_empty());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn subjects(cli: &Cli) -> Result<Vec<Subject>> {
    if let (Some(plugin), Some(conf)) = (&cli.plugin, &cli.conf) {
        let plugin = plugin
            .canonicalize()
            .with_context(|| format!("find {}", plugin.display()))?;
        let bytes = std::fs::read(conf).with_context(|| format!("read {}", conf.display()))?;
        let conf =
            serde_json::from_slice(&bytes).with_context(|| format!("decode {}", conf.display()))?;
        return Ok(vec![Subject::given(&plugin, conf)]);
    }
    let programs = match &cli.programs {
        Some(programs) => programs.clone(),
        None => {
            let own = std::env::current_exe().context("path of this program")?;
            own.parent().context("folder of this program")?.to_owned()
        }
    };
    let names = match cli.subjects.as_slice() {
        [] => vec!["tombolo".to_owned(), "ptp".to_owned(), "bridge".to_owned()],
        names => names.to_vec(),
    };
    let subject = |name: &String| match name.as_str() {
        "tombolo" => Subject::tombolo(&programs),
        "ptp" | "bridge" => Subject::reference(name),
        other => bail!("--subject {other:?}: tombolo, ptp or bridge; others by --plugin"),
    };
    names.iter().map(subject).collect()
}

fn print(subject: &str, line: &Line) {
    let version = line.version.map_or("", |version| version.text());
    let (word, why) = match &line.outcome {
        Outcome::Passed => ("pass", ""),
        Outcome::Failed(why) => ("FAIL", why.as_str()),
        Outcome::Inapplicable(why) => ("-", why.as_str()),
    };
    let (tier, name) = (line.case.tier.word(), line.case.name);
    println!("{subject:8} {tier:12} {name:60} {version:6} {word:5} {why}");
}

fn summary(report: &Report) {
    let count = |wanted: fn(&Outcome) -> bool| {
        report
            .lines
            .iter()
            .filter(|line| wanted(&line.outcome))
            .count()
    };
    println!(
        "{}: {} passed, {} failed, {} not applicable",
        report.subject,
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Inapplicable(_))),
    );
}
