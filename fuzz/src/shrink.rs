//! Makes a failing input smaller while it fails in the same way.

use std::time::{Duration, Instant};

/// Inputs that are tried at most.
const TRIES: u32 = 5000;
/// How long at most.
const TIME: Duration = Duration::from_secs(20);

/// The smallest input found for which `fails` holds, beginning with `input`, for which it does.
pub fn shrink(input: Vec<u8>, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let begun = Instant::now();
    let mut best = input;
    let mut left = TRIES;
    let mut try_it = |candidate: &[u8], left: &mut u32| {
        *left = left.saturating_sub(1);
        *left > 0 && begun.elapsed() < TIME && fails(candidate)
    };
    loop {
        let before = best.clone();
        // Leave out pieces, big ones first.
        let mut piece = best.len().next_power_of_two();
        while piece > 0 {
            let mut at = 0;
            while at < best.len() {
                let mut candidate = best.clone();
                candidate.drain(at..(at + piece).min(best.len()));
                if try_it(&candidate, &mut left) {
                    best = candidate;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        // Make bytes plain.
        for at in 0..best.len() {
            for plain in [0, b'0', b'a'] {
                if best[at] == plain {
                    break;
                }
                let mut candidate = best.clone();
                candidate[at] = plain;
                if try_it(&candidate, &mut left) {
                    best = candidate;
                    break;
                }
            }
        }
        if best == before || left == 0 || begun.elapsed() >= TIME {
            return best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_left() {
        let long = b"some text, then the bug! and some more text behind it".to_vec();
        let small = shrink(long, |input| input.windows(3).any(|bytes| bytes == b"bug"));
        assert_eq!(small, b"bug");
    }

    #[test]
    fn what_cannot_be_smaller_stays() {
        assert_eq!(shrink(vec![7, 9], |input| input == [7, 9]), [7, 9]);
        assert_eq!(shrink(vec![], |input| input.is_empty()), []);
    }
}
