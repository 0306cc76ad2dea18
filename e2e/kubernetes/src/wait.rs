//! Bounded waiting, and ^C: whoever waits notices it, so that everything is taken down in the ordinary way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Time between two looks at what only another program knows.
const PAUSE: Duration = Duration::from_millis(250);

/// Notices SIGINT and SIGTERM from now on.
pub fn watch_signals(runtime: &tokio::runtime::Handle) {
    runtime.spawn(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("interrupted: everything is taken down");
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
}

/// Whether somebody wants the run to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once somebody wants the run to end.
pub fn go_on() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// From now on nothing is interrupted any more: what follows takes things down.
pub fn ignore_interrupt() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Asks until there is an answer; what was wrong last is the error when the bound is over.
pub fn until<T>(what: &str, bound: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        go_on()?;
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if begin.elapsed() > bound => {
                return Err(error).with_context(|| format!("{what}: not so within {bound:?}"));
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

/// Lets time pass, for what takes time by itself: an outage, a load.
pub fn pass(time: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        go_on()?;
        sleep(PAUSE.min(time.saturating_sub(begin.elapsed())));
    }
    Ok(())
}
