//! Numbered steps of an operation: a test of the shipped binary ends the process before or after any of them
//! (`--crash-at add.2.after`) and looks at what the next start makes of it.
//!
//! | operation | 1 | 2 | 3 | 4 |
//! |---|---|---|---|---|
//! | `add` | journal: adding | create the link | configure both ends | journal: ready |
//! | `del` | journal: draining | detach | | |
//! | `reap` | delete links | pool: cooling noted | journal: gone | |
//! | `note` | note of a DEL: gone | | | |

use crate::config::CrashAt;

#[derive(Debug)]
pub struct Steps<'a> {
    operation: &'static str,
    done: u32,
    crash_at: Option<&'a CrashAt>,
}

impl<'a> Steps<'a> {
    pub const fn new(operation: &'static str, crash_at: Option<&'a CrashAt>) -> Self {
        Self {
            operation,
            done: 0,
            crash_at,
        }
    }

    /// Goes on where another left off.
    pub const fn resume(operation: &'static str, done: u32, crash_at: Option<&'a CrashAt>) -> Self {
        Self {
            operation,
            done,
            crash_at,
        }
    }

    /// How many steps were begun.
    pub const fn done(&self) -> u32 {
        self.done
    }

    /// The next step.
    pub fn run<T>(&mut self, step: impl FnOnce() -> T) -> T {
        self.begin();
        let result = step();
        self.end();
        result
    }

    /// Marks the begin of a step that cannot be a closure.
    pub fn begin(&mut self) {
        self.done += 1;
        self.crash(false);
    }

    /// Marks its end.
    pub fn end(&self) {
        self.crash(true);
    }

    fn crash(&self, after: bool) {
        if let Some(at) = self.crash_at
            && at.operation == self.operation
            && at.step == self.done
            && at.after == after
        {
            eprintln!("ends here as --crash-at says: {at:?}");
            std::process::abort();
        }
    }
}
