//! Failpoints: every write of a program (journal, kernel, cloud, object) has a name, and a test of the shipped program can
//! end or stop the process right before or right after it.
//!
//! ```text
//!   tombolo-agent --failpoints                                        all names, one a line
//!   tombolo-agent run … --failpoint add.create-link.before            SIGKILL before the link is created
//!   tombolo-agent run … --failpoint reap.cool.after@2                 … after the second note that an address rests
//!   tombolo-agent run … --failpoint add.journal-ready.before=stop     SIGSTOP; SIGCONT goes on
//! ```
//! Several may be given.
//! A program lists its points in tables ([`points!`]); a test takes the names from there, so that a point that no test
//! reaches is found. Only an argument arms a point: no variable, file or configuration that may be inherited or kept can.
//! Nothing is armed in production, and then a point costs one load and a branch.
//!
//! A crate of its own although it is small: the plugin must not link what the agent does, and they share it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The argument that lists all points. It stands alone.
pub const LIST: &str = "--failpoints";

/// What this process was told to do, if anything.
static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();

/// One write, by name: `<operation>.<step>`.
#[derive(Debug)]
pub struct Point {
    name: &'static str,
}

/// Points of one program or library.
pub type Table = &'static [&'static Point];

/// Declares points and a table of all of them.
#[macro_export]
macro_rules! points {
    (
        $(#[$about:meta])* $visible:vis static $table:ident;
        $($(#[$what:meta])* $point:ident = $name:literal;)+
    ) => {
        $($(#[$what])* $visible static $point: $crate::Point = $crate::Point::new($name);)+
        $(#[$about])* $visible static $table: $crate::Table = &[$(&$point),+];
    };
}

impl Point {
    /// A point of this name; see [`points!`].
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// A write that blocks.
    pub fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        self.before();
        let result = write();
        self.after();
        result
    }

    /// A write that is waited for.
    pub async fn during<T>(&self, write: impl Future<Output = T>) -> T {
        self.before();
        let result = write.await;
        self.after();
        result
    }

    /// The begin of a write that cannot be a closure.
    pub fn before(&self) {
        self.reached(When::Before);
    }

    /// Its end, however it ended.
    pub fn after(&self) {
        self.reached(When::After);
    }

    fn reached(&self, when: When) {
        let Some(all) = ARMED.get() else { return };
        let is_this = |armed: &&Armed| armed.order.when == when && armed.order.point == self.name;
        all.iter().filter(is_this).for_each(Armed::hit);
    }
}

/// Before or after the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

/// What happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Stop,
}

/// Where to do what, from an argument: `<operation>.<step>.<before|after>[@<n>][=<kill|stop>]`. `n` counts from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    point: String,
    when: When,
    hit: u32,
    deed: Deed,
}

/// An order that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not of the form.
    #[error("{0:?}: must be <operation>.<step>.<before|after>[@<n>][=<kill|stop>]")]
    Form(String),
    /// No such point here.
    #[error("{0:?}: this program has no such failpoint ({LIST} lists them)")]
    Unknown(String),
    /// They are armed once, at the begin.
    #[error("failpoints are set already")]
    Again,
}

impl FromStr for Order {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let form = || Refused::Form(text.to_owned());
        let (rest, deed) = match text.split_once('=') {
            None => (text, Deed::Kill),
            Some((rest, "kill")) => (rest, Deed::Kill),
            Some((rest, "stop")) => (rest, Deed::Stop),
            Some(_) => return Err(form()),
        };
        let (rest, hit) = match rest.split_once('@') {
            None => (rest, 1),
            Some((rest, hit)) => (rest, hit.parse().map_err(|_| form())?),
        };
        let (point, when) = match rest.rsplit_once('.') {
            Some((point, "before")) => (point, When::Before),
            Some((point, "after")) => (point, When::After),
            _ => return Err(form()),
        };
        if hit == 0 || point.is_empty() {
            return Err(form());
        }
        Ok(Self {
            point: point.to_owned(),
            when,
            hit,
            deed,
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.when {
            When::Before => "before",
            When::After => "after",
        };
        let deed = match self.deed {
            Deed::Kill => "kill",
            Deed::Stop => "stop",
        };
        write!(f, "{}.{when}@{}={deed}", self.point, self.hit)
    }
}

#[derive(Debug)]
struct Armed {
    order: Order,
    hits: AtomicU32,
}

impl Armed {
    fn hit(&self) {
        if self.hits.fetch_add(1, Ordering::Relaxed) + 1 != self.order.hit {
            return;
        }
        // The line tells the test that the process ended here and nowhere else. Nobody may be reading it.
        let _unread = writeln!(std::io::stderr(), "failpoint {}", self.order);
        let done = match self.order.deed {
            Deed::Kill => kill_process(getpid(), Signal::KILL).is_ok(),
            Deed::Stop => kill_process(getpid(), Signal::STOP).is_ok() && await_stop(),
        };
        if !done {
            std::process::abort();
        }
    }
}

/// A stop goes to whichever thread takes it; once it is no longer pending, none of them returns from a system call, so that
/// this one does not go on before the process is told to.
fn await_stop() -> bool {
    loop {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
            return false;
        };
        let pending = status.lines().find_map(|l| l.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        let Some(pending) = pending else { return false };
        if pending & (1 << (Signal::STOP.as_raw() - 1)) == 0 {
            return true;
        }
        std::thread::yield_now();
    }
}

/// Arms the points of these orders, for the rest of the process's life.
///
/// # Errors
/// [`Refused::Unknown`] where no table has it; [`Refused::Again`] after a first one.
pub fn arm(orders: Vec<Order>, tables: &[Table]) -> Result<(), Refused> {
    let unknown = |order: &&Order| !all(tables).any(|point| point.name == order.point);
    if let Some(order) = orders.iter().find(unknown) {
        return Err(Refused::Unknown(order.to_string()));
    }
    if orders.is_empty() {
        return Ok(());
    }
    let armed = |order| Armed {
        order,
        hits: AtomicU32::new(0),
    };
    let armed = orders.into_iter().map(armed).collect();
    ARMED.set(armed).map_err(|_| Refused::Again)
}

/// Prints all points if that is all that the arguments (without the program's name) ask for; whether it was.
pub fn list_if_asked(arguments: impl IntoIterator<Item = OsString>, tables: &[Table]) -> bool {
    if !arguments.into_iter().eq([OsString::from(LIST)]) {
        return false;
    }
    for point in all(tables) {
        let _unread = writeln!(std::io::stdout(), "{}", point.name);
    }
    true
}

fn all(tables: &[Table]) -> impl Iterator<Item = &'static Point> {
    tables.iter().flat_map(|table| table.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    points! {
        static POINTS;
        FIRST = "add.first";
        SECOND = "add.second";
    }

    #[test]
    fn orders_parse() {
        for (text, shown) in [
            ("add.first.before", "add.first.before@1=kill"),
            ("add.first.after@3", "add.first.after@3=kill"),
            ("add.first.after@3=stop", "add.first.after@3=stop"),
            ("add.first.before=kill", "add.first.before@1=kill"),
        ] {
            assert_eq!(text.parse::<Order>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "add.first",
            ".before",
            "add.first.during",
            "add.first.after@0",
            "add.first.after@x",
            "add.first.after=hang",
        ] {
            assert_eq!(text.parse::<Order>(), Err(Refused::Form(text.to_owned())));
        }
    }

    #[test]
    fn only_a_point_of_the_program_can_be_armed() {
        let order = "add.third.before".parse::<Order>().unwrap();
        let refused = arm(vec![order], &[POINTS]);
        assert!(matches!(refused, Err(Refused::Unknown(_))));
        assert_eq!(arm(Vec::new(), &[POINTS]), Ok(()));
        // A hit that never comes, so that this test survives the others of its process.
        let orders = ["add.first.before@4000000000", "add.second.after@4000000000"];
        let orders: Vec<Order> = orders.map(|order| order.parse().unwrap()).into();
        assert_eq!(arm(orders.clone(), &[POINTS]), Ok(()));
        assert_eq!(arm(orders, &[POINTS]), Err(Refused::Again));
        assert_eq!(FIRST.around(|| SECOND.around(|| 7)), 7);
        let hits = |armed: &Armed| armed.hits.load(Ordering::Relaxed);
        let hits: Vec<u32> = ARMED.get().unwrap().iter().map(hits).collect();
        assert_eq!(hits, [1, 1]);
    }

    #[test]
    fn the_list_is_asked_for_alone() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(list_if_asked(words(&[LIST]), &[POINTS]));
        assert!(!list_if_asked(words(&[]), &[POINTS]));
        assert!(!list_if_asked(words(&["run", LIST]), &[POINTS]));
    }
}
