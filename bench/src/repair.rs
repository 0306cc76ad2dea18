//! How fast a node whose rules and routes were flushed by hand is whole again. The agent's periodic resync is an hour away:
//! only its ear for the kernel's events can do it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cni::{Effort, on_node};
use crate::sandbox::{Agent, run};
use crate::stats::{Rounds, Row};

/// A file for `ip -batch`.
const QUESTIONS: &str = "/run/bench-repair.questions";

/// Flushes everything with our mark and waits until as much is back.
pub fn measure(bin: &Path, effort: Effort) -> Result<Vec<Row>> {
    let samples = on_node("repair", |nics| {
        let dir = PathBuf::from("/run/bench-repair");
        let agent = Agent::start(&bin.join("tombolo-agent"), None, &dir, nics, "DualStack")?;
        let samples = sample(effort)?;
        agent.uninstall()?;
        Ok(samples)
    })?;
    let n = samples.count();
    Ok([("p50", 0.5), ("p99", 0.99)]
        .iter()
        .map(|(label, q)| {
            Row::new(
                &format!("repair after a flush of rules and routes {label}"),
                "ms",
                samples.quantile(*q),
                None,
                None,
                n,
            )
        })
        .collect())
}

fn sample(effort: Effort) -> Result<Rounds> {
    let questions = "rule show proto 116\nroute show table all proto 116\n";
    fs::write(QUESTIONS, questions).with_context(|| format!("write {QUESTIONS}"))?;
    let whole = counts()?;
    let mut samples = Rounds::default();
    for _ in 0..effort.rounds {
        samples.begin();
        effort.pass()?;
        for _ in 0..10 {
            for family in ["-4", "-6"] {
                run(
                    "ip",
                    &[family, "route", "flush", "table", "all", "proto", "116"],
                )?;
                run("ip", &[family, "rule", "flush", "proto", "116"])?;
            }
            let begin = Instant::now();
            while counts()? != whole {
                if begin.elapsed() > Duration::from_secs(10) {
                    bail!(
                        "not whole again after 10 s: {:?} instead of {whole:?}",
                        counts()?
                    );
                }
            }
            samples.add(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

/// Lines of rules and routes of ours, by family. Few programs: they are what the clock's resolution is made of.
fn counts() -> Result<[usize; 2]> {
    let lines = |family| run("ip", &[family, "-batch", QUESTIONS]).map(|t| t.lines().count());
    Ok([lines("-4")?, lines("-6")?])
}
