//! The invariant checker: cloud == objects == pool == journal == kernel, address by address, and nothing left over.
//!
//! It reads `ip -j`, `nft -j`, files and HTTP APIs only; it shares no code with what it judges. `gather` takes one
//! snapshot of everything, `clauses` judges a snapshot and is pure, so that each clause can be shown to fail.

pub mod clauses;
pub mod gather;
mod host_ports;
pub mod snapshot;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::state::Lab;

pub use clauses::Violation;

/// Judges the lab as it is now.
pub async fn check(lab: &Lab) -> Result<Vec<Violation>> {
    Ok(clauses::judge(&gather::gather(lab).await?))
}

/// Judges until nothing is wrong or the bound is over: objects follow the kernel with a delay, so a snapshot in the middle
/// of a change may disagree with itself. A violation that stays is returned.
pub async fn settle(lab: &Lab, bound: Duration) -> Result<Vec<Violation>> {
    let begin = Instant::now();
    loop {
        let found = check(lab).await?;
        if found.is_empty() || begin.elapsed() > bound {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
