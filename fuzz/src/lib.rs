//! Runs a decoder on inputs that nobody wrote: every kept one, then mutations of them.
//!
//! ```text
//!   fuzz/corpus/<target>/* ──▶ replayed, each ──▶ mutated, n times from seed 1, n times from a fresh seed
//!                                  │                   │
//!                                  └─── panic, too much memory, too slow? ───▶ made smaller ──▶ kept as crash-<hash>
//! ```
//! A target is an ordinary unit test beside its decoder (docs/fuzzing.md lists all):
//!
//! ```ignore
//! tombolo_fuzz::Target::new("provider-id").check(|bytes| { … assert properties … });
//! ```
//! What is kept in the corpus is replayed for ever; `crash-…` files are regressions. A process that dies of an input
//! (abort, stack overflow, a target that never ends) leaves it beside the test programs, where the next run finds it.
//!
//! | variable | says |
//! |---|---|
//! | `FUZZ_SECONDS` | mutate for so long (each target) instead of a fixed number of runs |
//! | `FUZZ_SEED` | the one seed to begin from, decimal or 0x… |
//! | `FUZZ_KEEP` | `1`: write inputs that reach new code into the corpus (needs `make fuzz`: an instrumented build) |

mod budget;
mod corpus;
mod coverage;
mod guard;
mod heap;
mod mutate;
mod run;
mod shrink;

use std::path::PathBuf;
use std::time::Duration;

pub use arbitrary;
pub use budget::Budget;
pub use guard::Failure;
pub use run::{Found, Report};

/// Runs from each seed where no time is given: all targets together take seconds.
const RUNS: u32 = 2000;
/// Most bytes of a mutated input, where the target does not say.
const MAX_LEN: usize = 4096;
/// What one input may hold of memory, besides [`HEAP_PER_BYTE`] for each of its bytes.
const HEAP: usize = 1 << 20;
/// Untyped JSON takes 32 bytes for a value of two.
const HEAP_PER_BYTE: usize = 256;
/// One input takes microseconds to milliseconds; this much, three times in a row, is another kind of cost.
const SLOW: Duration = Duration::from_secs(4);
/// A target that has not returned by now never will.
const HANG: Duration = Duration::from_secs(120);

/// A decoder under test, and what one input may cost.
#[derive(Clone, Debug)]
pub struct Target {
    name: &'static str,
    corpus: PathBuf,
    words: &'static [&'static str],
    runs: u32,
    max_len: usize,
    heap: usize,
    slow: Duration,
    hang: Duration,
}

impl Target {
    /// A target whose kept inputs are in `fuzz/corpus/<name>`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
        Self {
            name,
            corpus: PathBuf::from(corpus).join(name),
            words: &[],
            runs: RUNS,
            max_len: MAX_LEN,
            heap: HEAP,
            slow: SLOW,
            hang: HANG,
        }
    }

    /// Texts that mean something to the decoder.
    #[must_use]
    pub fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    /// Runs from each seed, where one run is unusually cheap or expensive.
    #[must_use]
    pub fn runs(mut self, runs: u32) -> Self {
        self.runs = runs;
        self
    }

    /// Most bytes of a mutated input.
    #[must_use]
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Bytes of memory that one input may make the target hold at once, besides 256 for each of its own.
    #[must_use]
    pub fn heap(mut self, bytes: usize) -> Self {
        self.heap = bytes;
        self
    }

    /// Keeps inputs elsewhere.
    #[must_use]
    pub fn corpus(mut self, folder: impl Into<PathBuf>) -> Self {
        self.corpus = folder.into();
        self
    }

    /// Time after which one input, three times in a row, counts as too slow; and after which the process is ended.
    #[must_use]
    pub fn patience(mut self, slow: Duration, hang: Duration) -> Self {
        self.slow = slow;
        self.hang = hang;
        self
    }

    /// Replays and mutates as the environment says. The target asserts; a decoder's error is no failure.
    ///
    /// # Panics
    /// Where an input made the target panic, hold too much memory or take too long: with the input, where it is kept, and
    /// how to run it again.
    #[track_caller]
    pub fn check(&self, target: impl Fn(&[u8])) {
        let outcome = self.run(&Budget::from_env(self.runs), target);
        match outcome {
            Ok(report) => println!("{report}"),
            Err(found) => panic!("{found}"),
        }
    }
}
