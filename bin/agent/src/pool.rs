//! The task that owns the node's pool. All others talk to it by messages; it answers, keeps time for the pool, and keeps
//! the notes about cooling addresses on disk before anybody hears of them.
//!
//! Cancel safety: a caller that drops [`Pool::reserve`] must tell so by [`Pool::abandon`]; `reserve` itself does when its
//! wait ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tombolo_core::datapath::EndpointAddress;
use tombolo_core::ipam::{self, Action, AddressState, Counts, Demand, Input, PoolConfig};
use tombolo_core::types::{AttachmentKey, Family, NicId, Reason};
use tracing::{error, info, warn};

use crate::clock;
use crate::error::Error;
use crate::journal::{Cooling, Journal};
use crate::steps;

/// Messages that may wait in the channel; senders then wait, too.
const BACKLOG: usize = 256;
/// The clock may be set: never sleep longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

type Answer = Result<Vec<EndpointAddress>, Reason>;

enum Message {
    Reserve(AttachmentKey, oneshot::Sender<Answer>),
    Inputs(Option<PoolConfig>, Vec<Input>, oneshot::Sender<Vec<Action>>),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// The pool at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub demand: BTreeMap<Family, Demand>,
    pub counts: BTreeMap<Family, Counts>,
    pub addresses: BTreeMap<IpAddr, (NicId, AddressState)>,
    pub releasable: Vec<EndpointAddress>,
    pub consents: BTreeMap<IpAddr, bool>,
}

/// The way to the pool; clones share it.
#[derive(Clone, Debug)]
pub struct Pool {
    sender: mpsc::Sender<Message>,
    version: watch::Receiver<u64>,
}

impl Pool {
    /// Starts the task. It ends when the last handle is gone.
    pub fn start(config: PoolConfig, journal: Journal) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let (changed, version) = watch::channel(0);
        let actor = Actor {
            pool: ipam::Pool::new(config),
            journal,
            waiting: BTreeMap::new(),
            changed,
        };
        tokio::spawn(actor.run(receiver));
        Self { sender, version }
    }

    /// Counts changes, for those who report.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// Addresses for a key; waits for supply at most so long. `None`: the wait is over, and nothing is held.
    pub async fn reserve(
        &self,
        key: &AttachmentKey,
        wait: Duration,
    ) -> Result<Option<Answer>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Reserve(key.clone(), reply)).await?;
        match tokio::time::timeout(wait, answer).await {
            Ok(answer) => Ok(Some(answer.map_err(|_| Error::Stopping)?)),
            Err(_) => {
                self.abandon(key).await?;
                Ok(None)
            }
        }
    }

    /// The ADD of this key gives up and never touched the kernel.
    pub async fn abandon(&self, key: &AttachmentKey) -> Result<(), Error> {
        self.inputs(None, vec![Input::Abandon(key.clone())])
            .await
            .map(drop)
    }

    /// The addresses of this key are no longer its pod's.
    pub async fn release(&self, key: &AttachmentKey) -> Result<(), Error> {
        self.inputs(None, vec![Input::Release(key.clone())])
            .await
            .map(drop)
    }

    /// The kernel state of this key is gone. The notes that its addresses cool are on disk when this returns.
    pub async fn removed(&self, key: &AttachmentKey) -> Result<(), Error> {
        self.inputs(None, vec![Input::Removed(key.clone())])
            .await
            .map(drop)
    }

    /// Inputs in order, with nothing in between; the actions that followed.
    pub async fn inputs(
        &self,
        config: Option<PoolConfig>,
        inputs: Vec<Input>,
    ) -> Result<Vec<Action>, Error> {
        let (reply, actions) = oneshot::channel();
        self.send(Message::Inputs(config, inputs, reply)).await?;
        actions.await.map_err(|_| Error::Stopping)
    }

    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let (reply, snapshot) = oneshot::channel();
        self.send(Message::Snapshot(reply)).await?;
        snapshot.await.map_err(|_| Error::Stopping)
    }

    async fn send(&self, message: Message) -> Result<(), Error> {
        self.sender.send(message).await.map_err(|_| Error::Stopping)
    }
}

struct Actor {
    pool: ipam::Pool,
    journal: Journal,
    waiting: BTreeMap<AttachmentKey, oneshot::Sender<Answer>>,
    changed: watch::Sender<u64>,
}

impl Actor {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        loop {
            let wake = self.wake_at();
            tokio::select! {
                message = receiver.recv() => match message {
                    Some(message) => self.message(message).await,
                    None => return,
                },
                () = sleep_until(wake) => drop(self.feed(vec![Input::Tick]).await),
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let wait = self
            .pool
            .next_deadline()
            .map(|at| Duration::from_millis((at - clock::now()).0));
        // One millisecond more: the pool must find the deadline passed.
        Instant::now()
            + wait
                .map_or(LONGEST_SLEEP, |wait| wait + Duration::from_millis(1))
                .min(LONGEST_SLEEP)
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Reserve(key, reply) => {
                self.waiting.insert(key.clone(), reply);
                self.feed(vec![Input::Reserve(key)]).await;
            }
            Message::Inputs(config, inputs, reply) => {
                if let Some(config) = config {
                    self.pool.configure(config);
                }
                let actions = self.feed(inputs).await;
                // A caller that left wanted the effect, not the answer.
                drop(reply.send(actions));
            }
            Message::Snapshot(reply) => drop(reply.send(Snapshot {
                demand: self.pool.demand(clock::now()),
                counts: self.pool.counts(),
                addresses: self.pool.addresses(),
                releasable: self.pool.releasable(),
                consents: self.pool.consents(),
            })),
        }
    }

    async fn feed(&mut self, inputs: Vec<Input>) -> Vec<Action> {
        let mut actions = Vec::new();
        for input in inputs {
            if let Input::Abandon(key) = &input {
                self.waiting.remove(key);
            }
            actions.extend(self.pool.handle(clock::now(), input));
        }
        self.write_notes(&actions).await;
        for action in &actions {
            self.carry_out(action);
        }
        self.changed.send_modify(|version| *version += 1);
        actions
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Assign(key, addresses) => self.answer(key, Ok(addresses.clone())),
            Action::Refuse(key, reason) => self.answer(key, Err(*reason)),
            Action::Lost(key, ip) => {
                warn!(%key, %ip, reason = %Reason::ForeignConflict, "a pod holds an address that the cloud no longer lists")
            }
            Action::Consent(ip, agreed) => info!(%ip, agreed, "answer to a mark for release"),
            Action::Wait(key) => info!(%key, "waits for an address"),
            Action::Cool(..) | Action::Cooled(_) => {}
        }
    }

    fn answer(&mut self, key: &AttachmentKey, answer: Answer) {
        if let Some(waiting) = self.waiting.remove(key) {
            // A caller that left says so by `Abandon`, which is on its way.
            drop(waiting.send(answer));
        }
    }

    /// A note that cannot be written costs a rest that a restart cuts short; the removal itself goes on.
    async fn write_notes(&self, actions: &[Action]) {
        let notes: Vec<Action> = actions
            .iter()
            .filter(|action| matches!(action, Action::Cool(..) | Action::Cooled(_)))
            .cloned()
            .collect();
        if notes.is_empty() {
            return;
        }
        let journal = self.journal.clone();
        let written = tokio::task::spawn_blocking(move || {
            notes.iter().try_for_each(|note| match note {
                Action::Cool(address, until) => {
                    let note = Cooling {
                        address: address.clone(),
                        until: *until,
                    };
                    steps::REAP_COOL.around(|| journal.cool(&note))
                }
                Action::Cooled(ip) => steps::REST_OVER.around(|| journal.cooled(*ip)),
                _ => Ok(()),
            })
        });
        match written
            .await
            .map_err(Error::from)
            .and_then(|written| written.map_err(Error::from))
        {
            Ok(()) => {}
            Err(error) => error!(error = error.chain(), reason = %error.reason(), "cooling note"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tombolo_core::ipam::NicSupply;
    use tombolo_core::types::{Families, Millis};

    use super::*;

    fn config() -> PoolConfig {
        PoolConfig {
            families: Families::V4,
            warm_min: 0,
            warm_max: 0,
            cooling: Millis(20),
            churn_window: Millis(0),
            max_pods: 5,
        }
    }

    fn key(n: u32) -> AttachmentKey {
        AttachmentKey::new("net", &format!("c{n}"), "eth0").unwrap()
    }

    fn supply() -> Input {
        let nic = NicId("eni-0".to_owned());
        let addresses = vec!["10.0.0.1".parse().unwrap()];
        Input::Supply(vec![NicSupply {
            nic,
            usable: true,
            device_index: 0,
            addresses,
        }])
    }

    #[tokio::test]
    async fn waiting_ends_with_supply_and_cooling_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let pool = Pool::start(config(), journal.clone());
        assert_eq!(pool.reserve(&key(1), Duration::ZERO).await.unwrap(), None);
        let one = key(1);
        let (first, _) = tokio::join!(
            pool.reserve(&one, Duration::from_secs(60)),
            pool.inputs(None, vec![supply()])
        );
        assert_eq!(first.unwrap().unwrap().unwrap().len(), 1);
        pool.release(&key(1)).await.unwrap();
        pool.removed(&key(1)).await.unwrap();
        assert_eq!(journal.load().unwrap().cooling.len(), 1);
        let second = pool
            .reserve(&key(2), Duration::from_secs(60))
            .await
            .unwrap();
        assert_eq!(second.unwrap().unwrap().len(), 1);
        assert_eq!(journal.load().unwrap().cooling.len(), 0);
    }

    #[tokio::test]
    async fn release_refuses_the_add_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::start(config(), Journal::open(dir.path()).unwrap());
        let one = key(1);
        let (answer, released) = tokio::join!(
            pool.reserve(&one, Duration::from_secs(60)),
            pool.release(&one)
        );
        released.unwrap();
        assert_eq!(answer.unwrap(), Some(Err(Reason::Superseded)));
    }
}
