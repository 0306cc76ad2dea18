//! The fabric: namespaces and links with real packets. One thread lives in the router's namespace and does everything there,
//! one job at a time; [`Fabric`] is its handle.
//!
//! `tl-<lab>-fabric` is the router: a veth `n-<id>` for every plugged NIC, host routes and permanent neighbours for every
//! address that a NIC owns, proxy ARP for those, unreachable routes for the rest of the VPC. `tl-<lab>-inet` is the internet.

/// Appends a line to a `String`, which cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}

mod apply;
mod command;
mod guest;
mod ns;
pub mod ra;
mod rules;
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::admin::CounterReport;
use crate::plan::{Desired, FabricPlan};

pub use command::CommandError;
pub use ns::{Netns, NsError, await_local};
pub use setup::sweep;

/// What the fabric looks like after an attempt to make it as desired.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All NICs that are plugged.
    pub plugged: BTreeSet<String>,
    /// NICs (or namespaces, by instance id) that could not be made as desired, and why.
    pub errors: BTreeMap<String, String>,
}

enum Job {
    Apply(Box<Desired>, oneshot::Sender<Outcome>),
    Counters(oneshot::Sender<Result<CounterReport, NsError>>),
    ResetCounters(oneshot::Sender<Result<(), NsError>>),
    Down(oneshot::Sender<Vec<String>>),
}

/// The fabric's thread is gone: it panicked or was taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fabric has ended")]
pub struct Ended;

/// Sockets inside the router's namespace.
#[derive(Debug)]
pub struct Sockets {
    /// Listens where instances find the cloud API.
    pub api: TcpListener,
    /// Sends and receives router advertisements and solicitations.
    pub ra: ra::RaSocket,
}

/// Handle of the fabric's thread. Dropping it without [`Fabric::down`] leaves the namespaces for the next sweep.
#[derive(Debug)]
pub struct Fabric {
    jobs: mpsc::Sender<Job>,
}

impl Fabric {
    /// Makes the router and the internet. Residue of a lab of the same name must have been swept.
    ///
    /// # Errors
    /// The first step that failed; what was made before it is removed.
    pub async fn start(plan: FabricPlan) -> Result<(Self, Sockets), NsError> {
        let (jobs, inbox) = mpsc::channel();
        let (ready, started) = oneshot::channel();
        let name = plan.fabric();
        std::thread::Builder::new()
            .name("fabric".to_owned())
            .spawn(move || run(plan, ready, &inbox))
            .map_err(|source| NsError::Io {
                what: "start the fabric's thread".to_owned(),
                path: name.clone(),
                source,
            })?;
        let sockets = started.await.map_err(|_| NsError::Panicked(name))??;
        Ok((Self { jobs }, sockets))
    }

    /// Makes the fabric as desired, as far as it can.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn apply(&self, desired: Desired) -> Result<Outcome, Ended> {
        self.ask(|reply| Job::Apply(Box::new(desired), reply)).await
    }

    /// Reads the drop counters.
    ///
    /// # Errors
    /// [`Ended`], or `nft` failed.
    pub async fn counters(&self) -> Result<Result<CounterReport, NsError>, Ended> {
        self.ask(Job::Counters).await
    }

    /// Sets the drop counters to 0.
    ///
    /// # Errors
    /// [`Ended`], or `nft` failed.
    pub async fn reset_counters(&self) -> Result<Result<(), NsError>, Ended> {
        self.ask(Job::ResetCounters).await
    }

    /// Removes every link and namespace and ends the thread. Returns what could not be removed.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn down(&self) -> Result<Vec<String>, Ended> {
        self.ask(Job::Down).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}

/// The thread. A reply that nobody waits for any more is dropped.
fn run(
    plan: FabricPlan,
    ready: oneshot::Sender<Result<Sockets, NsError>>,
    inbox: &mpsc::Receiver<Job>,
) {
    let built = ns::NamedMount::look().and_then(|mount| {
        let built = setup::build(&plan);
        if built.is_err() {
            setup::remove(&plan);
            mount.restore()?;
        }
        built.map(|sockets| (mount, sockets))
    });
    let (mount, sockets) = match built {
        Ok(built) => built,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let ra = sockets.ra.clone();
    let _ = ready.send(Ok(sockets));
    let mut state = apply::State::new(plan, ra);
    for job in inbox {
        match job {
            Job::Apply(desired, reply) => drop(reply.send(state.apply(&desired))),
            Job::Counters(reply) => drop(reply.send(state.counters())),
            Job::ResetCounters(reply) => drop(reply.send(state.reset_counters())),
            Job::Down(reply) => {
                let mut left = state.down();
                left.extend(mount.restore().err().map(|error| error.to_string()));
                let _ = reply.send(left);
                return;
            }
        }
    }
}
