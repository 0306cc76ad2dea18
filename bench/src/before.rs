//! Two builds in one run: they take turns round by round, so that what the machine does meanwhile meets both.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::Measure;
use crate::cni::Effort;
use crate::stats::{Row, quantile};

/// A part's rows, of `bin` beside `before`: medians over the rounds. The peer's column is the earlier build's; the floor
/// is that of all rounds.
pub fn measure(part: Measure, bin: &Path, before: &Path, effort: Effort) -> Result<Vec<Row>> {
    let once = Effort {
        rounds: 1,
        runs: effort.runs.div_ceil(effort.rounds),
        ..effort
    };
    let mut of_bin = Vec::new();
    let mut of_before = Vec::new();
    for round in 0..effort.rounds {
        // Who comes first changes.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                of_bin.push(part(bin, once)?);
            } else {
                of_before.push(part(before, once)?);
            }
        }
    }
    let now = by_name(&of_bin, |row| row.ours);
    let then = by_name(&of_before, |row| row.ours);
    let both: Vec<Vec<Row>> = of_bin.iter().chain(&of_before).cloned().collect();
    let floor = by_name(&both, |row| row.floor);
    let first = of_bin.first().map_or(&[][..], Vec::as_slice);
    let rows = first.iter().map(|row| {
        let median = |of: &BTreeMap<&str, Vec<f64>>| quantile(of.get(row.name.as_str())?, 0.5);
        let peer = median(&then).map(|value| ("before", value));
        let n = row.n * of_bin.len();
        Row::new(&row.name, row.unit, median(&now), peer, median(&floor), n)
    });
    Ok(rows.collect())
}

/// A column's figures of all rounds.
fn by_name(rounds: &[Vec<Row>], of: fn(&Row) -> Option<f64>) -> BTreeMap<&str, Vec<f64>> {
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in rounds.iter().flatten() {
        if let Some(figure) = of(row) {
            figures.entry(&row.name).or_default().push(figure);
        }
    }
    figures
}
