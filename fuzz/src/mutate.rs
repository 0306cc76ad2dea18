//! Makes new inputs from kept ones: on bytes, on numbers in fixed places, on the words and brackets of text.

mod text;

use fastrand::Rng;

/// Mutations of one input, at most two to the power of this.
const STACK: u32 = 4;

/// Numbers at which arithmetic breaks.
const EDGES: [u64; 18] = [
    0,
    1,
    3,
    4,
    5,
    16,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    words: &'static [&'static str],
    max_len: usize,
}

impl Mutator {
    pub fn new(seed: u64, words: &'static [&'static str], max_len: usize) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            words,
            max_len,
        }
    }

    /// The next input, made from one of the pool. The later half of the pool, where newer finds are, is taken more often.
    pub fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let newer = self.rng.bool();
        let from = if newer { pool.len() / 2 } else { 0 };
        let mut input = match pool.get(from..) {
            Some(pool) if !pool.is_empty() => pool[self.rng.usize(..pool.len())].clone(),
            _ => Vec::new(),
        };
        let other = self.rng.choice(pool).cloned().unwrap_or_default();
        let is_text = std::str::from_utf8(&input).is_ok() && !input.is_empty();
        for _ in 0..1_u32 << self.rng.u32(0..=STACK) {
            if is_text && self.rng.u8(..4) != 0 {
                text::mutate(&mut self.rng, &mut input, &other, self.words);
            } else {
                self.bytes(&mut input, &other);
            }
            input.truncate(self.max_len);
        }
        input
    }

    fn bytes(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let rng = &mut self.rng;
        let len = input.len();
        let at = rng.usize(..=len);
        match rng.u8(..14) {
            0 if at < len => input[at] ^= 1 << rng.u8(..8),
            1 if at < len => input[at] = rng.u8(..),
            2 | 3 => number(rng, input, |rng, _| EDGES[rng.usize(..EDGES.len())]),
            4 => number(rng, input, |rng, old| {
                let by = rng.u64(1..=16);
                if rng.bool() {
                    old.wrapping_add(by)
                } else {
                    old.wrapping_sub(by)
                }
            }),
            // A length that fits what follows, or nearly.
            5 => number(rng, input, |rng, _| {
                u64::try_from(len - at)
                    .unwrap_or(0)
                    .wrapping_add(rng.u64(..4))
            }),
            6 => drop(input.drain(range(rng, len))),
            7 => {
                let piece = input[range(rng, len)].to_vec();
                insert(input, at, &piece);
            }
            8 => {
                let byte = if rng.bool() { 0 } else { rng.u8(..) };
                let piece = vec![byte; 1 << rng.u32(..8)];
                insert(input, at, &piece);
            }
            9 => {
                let piece = input[range(rng, len)].to_vec();
                overwrite(input, at, &piece);
            }
            10 => input.truncate(at),
            11 => {
                let tail = other.get(rng.usize(..=other.len())..).unwrap_or_default();
                input.truncate(at);
                input.extend_from_slice(tail);
            }
            12 => insert(input, at, &other[range(rng, other.len())]),
            _ => {
                let piece: Vec<u8> = (0..rng.usize(1..=8)).map(|_| rng.u8(..)).collect();
                insert(input, at, &piece);
            }
        }
    }
}

/// Changes 1, 2, 4 or 8 bytes as a number of either order, at a place of that alignment most of the time.
fn number(rng: &mut Rng, input: &mut [u8], change: impl Fn(&mut Rng, u64) -> u64) {
    let width = 1_usize << rng.u32(..4);
    let Some(last) = input.len().checked_sub(width) else {
        return;
    };
    let mut at = rng.usize(..=last);
    if rng.u8(..4) != 0 {
        at -= at % width;
    }
    let place = &mut input[at..at + width];
    let mut wide = [0; 8];
    if rng.u8(..4) == 0 {
        // Big-endian.
        wide[8 - width..].copy_from_slice(place);
        let new = change(rng, u64::from_be_bytes(wide)).to_be_bytes();
        place.copy_from_slice(&new[8 - width..]);
    } else {
        wide[..width].copy_from_slice(place);
        let new = change(rng, u64::from_le_bytes(wide)).to_le_bytes();
        place.copy_from_slice(&new[..width]);
    }
}

/// A part of something of this length; mostly short.
fn range(rng: &mut Rng, len: usize) -> std::ops::Range<usize> {
    let start = rng.usize(..=len);
    let most = if rng.bool() {
        len - start
    } else {
        (len - start).min(16)
    };
    start..start + rng.usize(..=most)
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(input.splice(at..at, piece.iter().copied()));
}

fn overwrite(input: &mut [u8], at: usize, piece: &[u8]) {
    let length = piece.len().min(input.len() - at);
    input[at..at + length].copy_from_slice(&piece[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let pool = [br#"{"a":[1,2],"b":"x"}"#.to_vec(), vec![0, 1, 2, 3, 255]];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed, &["word"], 64);
            (0..500).map(|_| mutator.next(&pool)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        assert!(inputs(7).iter().all(|input| input.len() <= 64));
        let distinct: std::collections::BTreeSet<_> = inputs(7).into_iter().collect();
        assert!(distinct.len() > 400, "{}", distinct.len());
    }

    #[test]
    fn it_begins_from_nothing() {
        let mut mutator = Mutator::new(1, &[], 64);
        assert!((0..100).any(|_| !mutator.next(&[]).is_empty()));
    }
}
