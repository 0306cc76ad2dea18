//! Pool, planner and kernel plan of two nodes driven together by a seeded generator: 20,000 steps, and after each of them
//! what must always hold. Now and then everything is left in peace, and then all must agree.
//!
//! ```text
//!   cloud (`cloud.rs`) ──readings──▶ Planner ──marks, calls──▶ spec ──▶ Pool ──▶ journal ──▶ desired ──diff──▶ kernel
//!        ▲                              ▲ └──────────────────────────────┐ │                       (datapath/kernel.rs)
//!        └──────────── calls ───────────┘ status: demand, answers ◀──────┴─┘
//! ```
//! Each arrow is a step of its own, so that every message may be late; calls may be refused, their replies lost, and agent
//! and operator may end between any two steps.

mod cloud;
mod node;
mod world;

use world::World;

/// Days, each from a seed of its own, and steps of a day.
const DAYS: u64 = 20;
const STEPS: usize = 1000;
/// Everything is left in peace after so many steps.
const REST_EVERY: usize = 125;

/// A generator of numbers that needs no crate (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[test]
fn t1_twenty_thousand_steps_of_pool_planner_and_kernel_together() {
    let mut steps = 0;
    let mut inputs = [0; 3];
    let (mut pods, mut calls) = (0, 0);
    for seed in 0..DAYS {
        let mut world = World::new(Rng(seed));
        for step in 1..=STEPS {
            let told = world.step();
            world.check(&format!("seed {seed}, step {step}: {told}"));
            steps += 1;
            if step % REST_EVERY == 0 {
                world.rest(&format!("seed {seed}, rest after step {step}"));
            }
        }
        for (sum, n) in inputs.iter_mut().zip(world.inputs) {
            *sum += n;
        }
        pods += world.pods;
        calls += world.calls;
    }
    let [pool, planner, plans] = inputs;
    println!(
        "{steps} steps over {DAYS} seeds: {pool} inputs of pools, {planner} of planners, {plans} plans for kernels; \
         {pods} pods, {calls} cloud calls"
    );
    assert_eq!(steps, 20_000);
    // A day in which nothing happens shows nothing.
    assert!(
        pods > 2000 && calls > 1000 && plans > 2000,
        "{pods} {calls}"
    );
}
