//! Quantiles, medians of rounds, and the rows that go into table and JSON.

use serde::{Deserialize, Serialize};

/// One line of the result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Unit of the three figures.
    pub unit: String,
    /// Tombolo.
    pub ours: Option<f64>,
    /// The peer.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<String>,
    /// The least that the kernel needs.
    pub floor: Option<f64>,
    /// ours / peer.
    pub ratio_peer: Option<f64>,
    /// ours / floor.
    pub ratio_floor: Option<f64>,
    /// Runs of ours behind the figure.
    pub n: usize,
}

impl Row {
    /// A row; the ratios follow.
    #[must_use]
    pub fn new(
        name: &str,
        unit: &str,
        ours: Option<f64>,
        peer: Option<(&str, f64)>,
        floor: Option<f64>,
        n: usize,
    ) -> Self {
        let ratio = |other: Option<f64>| Some(ours? / other.filter(|o| *o > 0.0)?);
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer: peer.map(|(_, v)| v),
            peer_name: peer.map(|(n, _)| n.to_owned()),
            floor,
            ratio_peer: ratio(peer.map(|(_, v)| v)),
            ratio_floor: ratio(floor),
            n,
        }
    }
}

/// Samples of one thing, a round at a time.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    rounds: Vec<Vec<f64>>,
}

impl Rounds {
    /// Begins a round.
    pub fn begin(&mut self) {
        self.rounds.push(Vec::new());
    }

    /// Adds a sample to the present round.
    pub fn add(&mut self, sample: f64) {
        if self.rounds.is_empty() {
            self.begin();
        }
        if let Some(round) = self.rounds.last_mut() {
            round.push(sample);
        }
    }

    /// Samples in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rounds.iter().map(Vec::len).sum()
    }

    /// The median over the rounds of each round's quantile: one noisy round does not decide.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let mut each: Vec<f64> = self.rounds.iter().filter_map(|r| quantile(r, q)).collect();
        each.sort_by(f64::total_cmp);
        quantile(&each, 0.5)
    }
}

/// Nearest-rank quantile.
#[must_use]
pub fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}
