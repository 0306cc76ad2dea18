//! Desired kernel state and plans.
//!
//! | file | holds |
//! |---|---|
//! | `input.rs` | nodes by hand and at random |
//! | `golden.rs` | whole computed states, compared with committed files |
//! | `rules.rs` | tables and properties of one computed state |
//! | `plans.rs` | properties of plans |
//! | `kernel.rs` | a model of the kernel: applies operations, routes packets |

mod golden;
mod input;
pub mod kernel;
mod plans;
mod rules;
