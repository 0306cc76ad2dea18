//! One target: replay, mutate, and what comes of a failure.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::Target;
use crate::budget::{Budget, Pass};
use crate::corpus;
use crate::coverage::Reached;
use crate::guard::{Failure, Guard};
use crate::mutate::Mutator;
use crate::shrink::shrink;

/// What was run, where nothing failed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The target.
    pub name: &'static str,
    /// Kept inputs that were replayed.
    pub kept: usize,
    /// Mutated inputs that were run.
    pub runs: u64,
    /// From which seeds.
    pub seeds: Vec<u64>,
    /// Counters reached, where the build counts.
    pub reached: Option<usize>,
    /// Inputs added to the corpus.
    pub added: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds: Vec<String> = self.seeds.iter().map(|seed| format!("{seed:#x}")).collect();
        write!(
            f,
            "fuzz: {}: {} kept inputs, {} mutated, seeds {}",
            self.name,
            self.kept,
            self.runs,
            seeds.join(" ")
        )?;
        if let Some(reached) = self.reached {
            write!(
                f,
                ", {reached} counters reached, {} inputs added",
                self.added
            )?;
        }
        Ok(())
    }
}

/// An input that failed, or why none could be run.
#[derive(Debug)]
pub struct Found {
    /// The target.
    pub name: &'static str,
    /// What happened.
    pub failure: Result<Failure, io::Error>,
    /// The input, made smaller.
    pub input: Vec<u8>,
    /// Where it is kept.
    pub kept: Option<PathBuf>,
    /// The seed from which it came; `None`: it was kept before.
    pub seed: Option<u64>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.failure {
            Ok(failure) => writeln!(f, "fuzz: {name}: an input {failure}")?,
            Err(error) => return write!(f, "fuzz: {name}: cannot run: {error}"),
        }
        let shown = &self.input[..self.input.len().min(400)];
        writeln!(
            f,
            "  input, {} bytes: {}",
            self.input.len(),
            shown.escape_ascii()
        )?;
        match &self.kept {
            Some(path) => writeln!(
                f,
                "  kept as {}: every later run replays it",
                path.display()
            )?,
            None => writeln!(f, "  it could not be kept")?,
        }
        match self.seed {
            Some(seed) => write!(f, "  seed {seed:#x}: run again with FUZZ_SEED={seed:#x}"),
            None => write!(f, "  it was kept before"),
        }
    }
}

impl Target {
    /// Replays and mutates within a budget.
    ///
    /// # Errors
    /// The first input that fails, made smaller and kept.
    pub fn run(&self, budget: &Budget, target: impl Fn(&[u8])) -> Result<Report, Box<Found>> {
        let broken = |error| Box::new(self.found(Err(error), Vec::new(), None, None));
        let guard = Guard::new(self, &target).map_err(broken)?;
        let mut session = Session {
            target: self,
            guard,
            reached: Reached::new(),
            pool: Vec::new(),
            fresh: Vec::new(),
        };
        let kept = session.replay()?;
        let mut runs = 0;
        for seed in &budget.seeds {
            runs += session.mutate(*seed, budget.pass)?;
        }
        let added = if budget.keep {
            session.keep_fresh().map_err(broken)?
        } else {
            0
        };
        let reached = &session.reached;
        Ok(Report {
            name: self.name,
            kept,
            runs,
            seeds: budget.seeds.clone(),
            reached: reached.counts().then(|| reached.total()),
            added,
        })
    }

    fn found(
        &self,
        failure: Result<Failure, io::Error>,
        input: Vec<u8>,
        kept: Option<PathBuf>,
        seed: Option<u64>,
    ) -> Found {
        Found {
            name: self.name,
            failure,
            input,
            kept,
            seed,
        }
    }
}

struct Session<'a> {
    target: &'a Target,
    guard: Guard<'a>,
    reached: Reached,
    /// What mutations begin from.
    pool: Vec<Vec<u8>>,
    /// Of these, what was found in this run.
    fresh: Vec<Vec<u8>>,
}

impl Session<'_> {
    /// Runs everything that is kept; how much that is.
    fn replay(&mut self) -> Result<usize, Box<Found>> {
        let target = self.target;
        let broken = |error| Box::new(target.found(Err(error), Vec::new(), None, None));
        for input in corpus::left_behind(target.name).map_err(broken)? {
            if corpus::name(&target.corpus, "crash", &input).exists() {
                continue;
            }
            // Kept before it is tried: it may end this process as well.
            let path = corpus::keep(&target.corpus, "crash", &input).map_err(broken)?;
            self.one(&input, Some(&path), None)?;
            // Somebody ended that process; the input is innocent.
            std::fs::remove_file(&path).map_err(broken)?;
        }
        let kept = corpus::load(&target.corpus).map_err(broken)?;
        for input in &kept {
            self.one(&input.bytes, Some(&input.path), None)?;
            self.pool.push(input.bytes.clone());
        }
        if self.pool.is_empty() {
            self.pool.push(Vec::new());
        }
        Ok(kept.len())
    }

    fn mutate(&mut self, seed: u64, pass: Pass) -> Result<u64, Box<Found>> {
        let mut mutator = Mutator::new(seed, self.target.words, self.target.max_len);
        let begun = Instant::now();
        let mut runs = 0;
        let goes_on = |runs: u64| match pass {
            Pass::Runs(most) => runs < u64::from(most),
            Pass::Time(most) => begun.elapsed() < most,
        };
        while goes_on(runs) {
            let input = mutator.next(&self.pool);
            runs += 1;
            if self.one(&input, None, Some(seed))? {
                self.fresh.push(input.clone());
                self.pool.push(input);
            }
        }
        Ok(runs)
    }

    /// Runs one input; whether it reached something new.
    fn one(
        &mut self,
        input: &[u8],
        kept: Option<&PathBuf>,
        seed: Option<u64>,
    ) -> Result<bool, Box<Found>> {
        let target = self.target;
        let (outcome, new) = self.reached.measure(|| self.guard.run(input));
        let found = |failure, input, kept| Box::new(target.found(failure, input, kept, seed));
        match outcome {
            Ok(Ok(())) => Ok(new > 0),
            Err(error) => Err(found(Err(error), input.to_vec(), None)),
            // What is kept stays as it is.
            Ok(Err(failure)) if kept.is_some() => {
                Err(found(Ok(failure), input.to_vec(), kept.cloned()))
            }
            Ok(Err(failure)) => {
                let small = shrink(input.to_vec(), |candidate| self.fails(candidate, &failure));
                // The words of the smaller one.
                let failure = match self.guard.run(&small) {
                    Ok(Err(failure)) => failure,
                    _ => failure,
                };
                let kept = corpus::keep(&target.corpus, "crash", &small).ok();
                Err(found(Ok(failure), small, kept))
            }
        }
    }

    fn fails(&self, input: &[u8], like: &Failure) -> bool {
        matches!(self.guard.run(input), Ok(Err(failure)) if failure.is_like(like))
    }

    /// Keeps the fewest of this run's finds that together reach what they all do: small ones first, each only if it
    /// adds something to the corpus.
    fn keep_fresh(&mut self) -> io::Result<usize> {
        let mut reached = Reached::once();
        for input in corpus::load(&self.target.corpus)? {
            drop(reached.measure(|| self.guard.run(&input.bytes)));
        }
        self.fresh.sort_by_key(Vec::len);
        let mut added = 0;
        for input in &self.fresh {
            let (outcome, new) = reached.measure(|| self.guard.run(input));
            if new > 0 && outcome?.is_ok() {
                corpus::keep(&self.target.corpus, "found", input)?;
                added += 1;
            }
        }
        Ok(added)
    }
}
