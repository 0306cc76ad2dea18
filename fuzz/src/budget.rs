//! How much to mutate, and from which seeds.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::time::Duration;

/// The seed of every bounded run: what fails on it fails everywhere.
pub const FIXED_SEED: u64 = 1;

/// How much to mutate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// One pass of mutations from each.
    pub seeds: Vec<u64>,
    /// How long a pass takes.
    pub pass: Pass,
    /// Whether inputs that reach new code go into the corpus.
    pub keep: bool,
}

/// How long a pass takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// A number of inputs.
    Runs(u32),
    /// A time.
    Time(Duration),
}

impl Budget {
    /// `runs` inputs from each of these seeds.
    #[must_use]
    pub fn runs(runs: u32, seeds: &[u64]) -> Self {
        Self {
            seeds: seeds.to_vec(),
            pass: Pass::Runs(runs),
            keep: false,
        }
    }

    /// What the environment asks for: `runs` inputs from the fixed and from a fresh seed, where it says nothing.
    ///
    /// # Panics
    /// A variable that cannot be read must not turn a long run into a short one unseen.
    #[must_use]
    pub fn from_env(runs: u32) -> Self {
        let number = |name: &str| -> Option<u64> {
            let text = env::var(name).ok().filter(|text| !text.is_empty())?;
            let parsed = text
                .strip_prefix("0x")
                .map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
            match parsed {
                Ok(number) => Some(number),
                Err(error) => panic!("{name}={text:?} is not a number: {error}"),
            }
        };
        let pass = match number("FUZZ_SECONDS") {
            Some(seconds) => Pass::Time(Duration::from_secs(seconds)),
            None => Pass::Runs(runs),
        };
        let fresh = RandomState::new().hash_one(0);
        let seeds = match (number("FUZZ_SEED"), pass) {
            (Some(seed), _) => vec![seed],
            (None, Pass::Runs(_)) => vec![FIXED_SEED, fresh],
            (None, Pass::Time(_)) => vec![fresh],
        };
        Self {
            seeds,
            pass,
            keep: number("FUZZ_KEEP") == Some(1),
        }
    }
}
