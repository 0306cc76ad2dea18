//! Waits for what the kernel does on its own time, by its notifications.

use std::time::{Duration, Instant};

use crate::events::Events;
use crate::{Error, Netns};

/// How long it may take. Usually it is done before we ask.
const BOUND: Duration = Duration::from_secs(2);

/// Returns when `holds` does. `what` is for the error.
pub fn wait(
    netns: &Netns,
    what: &str,
    mut holds: impl FnMut() -> Result<bool, Error>,
) -> Result<(), Error> {
    if holds()? {
        return Ok(());
    }
    let started = Instant::now();
    // Subscribed before the next look: what happens after that look is notified.
    let mut events = netns.run(Events::open_route)??;
    while !holds()? {
        if !events.wait(BOUND.saturating_sub(started.elapsed()))? {
            return Err(Error::NotReady {
                what: what.to_owned(),
                millis: BOUND.as_millis(),
            });
        }
        events.read()?;
    }
    Ok(())
}
