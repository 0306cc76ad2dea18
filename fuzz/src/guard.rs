//! Runs one input and judges: did it panic, hold too much memory, take too long? What never returns is ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::corpus::{self, Underway};
use crate::{HEAP_PER_BYTE, Target, heap};

/// How often an input must be slow: a machine that is busy with something else is slow once.
const SLOW_TIMES: u32 = 3;
/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(200);

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// What an input did that none may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The target panicked: a bug of the decoder, or a property that does not hold.
    Panic {
        /// What it said.
        message: String,
        /// File and line.
        place: String,
    },
    /// It held more memory than an input of this length may.
    Heap {
        /// Bytes held at once.
        peak: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// It took too long, each time it was tried.
    Slow {
        /// The shortest time.
        took: Duration,
        /// Time allowed.
        limit: Duration,
    },
}

impl Failure {
    /// Whether this is the same fault as another, for making an input smaller.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Panic { place: a, .. }, Self::Panic { place: b, .. }) => a == b,
            (Self::Heap { .. }, Self::Heap { .. }) | (Self::Slow { .. }, Self::Slow { .. }) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic { message, place } => write!(f, "panicked at {place}: {message}"),
            Self::Heap { peak, limit } => {
                write!(f, "held {peak} bytes of memory, {limit} are allowed")
            }
            Self::Slow { took, limit } => write!(f, "took {took:?}, {limit:?} are allowed"),
        }
    }
}

/// Runs inputs of one target.
pub struct Guard<'a> {
    target: &'a dyn Fn(&[u8]),
    limits: &'a Target,
    underway: Underway,
    watch: Watch,
}

impl<'a> Guard<'a> {
    pub fn new(limits: &'a Target, target: &'a dyn Fn(&[u8])) -> std::io::Result<Self> {
        install_hook();
        let underway = Underway::open(limits.name)?;
        let watch = Watch::start(limits, underway.path().to_owned())?;
        Ok(Self {
            target,
            limits,
            underway,
            watch,
        })
    }

    /// Runs one input.
    pub fn run(&self, input: &[u8]) -> std::io::Result<Result<(), Failure>> {
        self.underway.note(input)?;
        let mut fastest = Duration::MAX;
        for _ in 0..SLOW_TIMES {
            let (outcome, took) = self.once(input);
            fastest = fastest.min(took);
            if outcome.is_err() {
                return Ok(outcome);
            }
            if took <= self.limits.slow {
                return Ok(Ok(()));
            }
        }
        Ok(Err(Failure::Slow {
            took: fastest,
            limit: self.limits.slow,
        }))
    }

    fn once(&self, input: &[u8]) -> (Result<(), Failure>, Duration) {
        let begun = Instant::now();
        self.watch.begin();
        RUNNING.set(true);
        let (result, peak) =
            heap::peak(|| panic::catch_unwind(AssertUnwindSafe(|| (self.target)(input))));
        RUNNING.set(false);
        self.watch.end();
        let limit = self
            .limits
            .heap
            .saturating_add(input.len().saturating_mul(HEAP_PER_BYTE));
        let outcome = match result {
            Err(_) => {
                let (message, place) = PANIC.take().unwrap_or_default();
                Err(Failure::Panic { message, place })
            }
            Ok(()) if peak > limit => Err(Failure::Heap { peak, limit }),
            Ok(()) => Ok(()),
        };
        (outcome, begun.elapsed())
    }
}

/// Keeps the words of a panic inside a target; others are told as before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !RUNNING.get() {
                return before(info);
            }
            let place = info
                .location()
                .map(|place| format!("{}:{}", place.file(), place.line()));
            let message = info.payload_as_str().unwrap_or("(no message)").to_owned();
            PANIC.set(Some((message, place.unwrap_or_default())));
        }));
    });
}

/// Ends the process where an input never returns: nothing else ends a thread. The input is kept first.
struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    origin: Instant,
    /// Milliseconds since `origin` at which the present input began, plus 1; 0 between inputs.
    begun: AtomicU64,
    over: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Watch {
    fn start(limits: &Target, underway: PathBuf) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            begun: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let (seen, limits) = (Arc::clone(&shared), limits.clone());
        let look = move || {
            while !seen.over.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOOK);
                let begun = seen.begun.load(Ordering::Relaxed);
                let hang = u64::try_from(limits.hang.as_millis()).unwrap_or(u64::MAX);
                if begun != 0 && seen.now().saturating_sub(begun) > hang {
                    give_up(&limits, &underway);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("fuzz-watch".to_owned())
            .spawn(look)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    fn begin(&self) {
        let now = self.shared.now() + 1;
        self.shared.begun.store(now, Ordering::Relaxed);
    }

    fn end(&self) {
        self.shared.begun.store(0, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

fn give_up(limits: &Target, underway: &std::path::Path) -> ! {
    let kept = std::fs::read(underway)
        .and_then(|input| corpus::keep(&limits.corpus, "crash", &input))
        .map_or_else(
            |error| format!("it is in {} ({error})", underway.display()),
            |path| format!("kept as {}", path.display()),
        );
    let text = format!(
        "fuzz: {}: an input has not returned after {:?}; {kept}. The process ends here.\n",
        limits.name, limits.hang
    );
    // Not by a macro: the test harness would capture it, and it has no later chance to print.
    drop(std::io::stderr().write_all(text.as_bytes()));
    drop(std::fs::remove_file(underway));
    std::process::abort();
}
