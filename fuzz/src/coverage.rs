//! Which code an input reached, where the build counts it.
//!
//! `make fuzz` has LLVM put a counter into every branch (`-C passes=sancov-module`); each module's start-up code calls
//! [`__sanitizer_cov_8bit_counters_init`] with where the counters are. In an ordinary build nobody calls it, there are no
//! counters, and mutation goes without their guidance.

use std::sync::{Mutex, PoisonError};

/// Where the counters are: address and length.
static COUNTERS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

#[expect(
    unsafe_code,
    reason = "the name is given by the compiler's instrumentation"
)]
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let region = (
        start.expose_provenance(),
        stop.addr().saturating_sub(start.addr()),
    );
    let mut counters = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if region.1 > 0 && !counters.contains(&region) {
        counters.push(region);
    }
}

/// What was reached so far by all inputs of a target.
#[derive(Debug, Default)]
pub struct Reached {
    regions: Vec<(usize, usize)>,
    /// For each counter the magnitudes that were seen, a bit each.
    seen: Vec<u8>,
    /// Whether how often something was reached does not matter.
    once: bool,
}

impl Reached {
    pub fn new() -> Self {
        let regions = COUNTERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let seen = vec![0; regions.iter().map(|(_, length)| length).sum()];
        Self {
            regions,
            seen,
            once: false,
        }
    }

    /// As [`Self::new`]; only whether a counter was reached matters, not how often.
    pub fn once() -> Self {
        Self {
            once: true,
            ..Self::new()
        }
    }

    /// Whether this build counts.
    pub fn counts(&self) -> bool {
        !self.regions.is_empty()
    }

    /// Counters that were ever above 0.
    pub fn total(&self) -> usize {
        self.seen.iter().filter(|bits| **bits != 0).count()
    }

    /// Runs something, and tells how much of what it reached nothing before had reached.
    pub fn measure<T>(&mut self, f: impl FnOnce() -> T) -> (T, usize) {
        self.each(|counter, _| *counter = 0);
        let result = f();
        let mut new = 0;
        let mut seen = std::mem::take(&mut self.seen);
        self.each(|counter, index| {
            let bit = if self.once {
                u8::from(*counter > 0)
            } else {
                magnitude(*counter)
            };
            if seen[index] & bit != bit {
                seen[index] |= bit;
                new += 1;
            }
        });
        self.seen = seen;
        (result, new)
    }

    fn each(&self, mut f: impl FnMut(&mut u8, usize)) {
        let mut index = 0;
        for (start, length) in &self.regions {
            let start = std::ptr::with_exposed_provenance_mut::<u8>(*start);
            #[expect(unsafe_code, reason = "the counters belong to no Rust object")]
            // SAFETY: the compiler's start-up code named this range; it is static, writable, and only ever added to. With
            // one test thread (as `make fuzz` runs) nothing else writes while we look; otherwise counts are inexact.
            let counters = unsafe { std::slice::from_raw_parts_mut(start, *length) };
            for counter in counters {
                f(counter, index);
                index += 1;
            }
        }
    }
}

/// 0 for never; else one bit for each of 1, 2, 3, 4, 8, 16, 32, 128 and more.
const fn magnitude(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}
