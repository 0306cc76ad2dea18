//! What this node has promised, in files that survive the agent: one file an attachment, one a cooling address.
//!
//! ```text
//!   <run-dir>/journal/<stem>.json     {"version":1,"key":…,"phase":…}   written before the kernel is touched
//!   <run-dir>/cooling/<address>.json  {"version":1,"address":…}          written before the attachment's file goes
//!   <run-dir>/quarantine/             files that could not be read: moved here and reported, never dropped
//!   <run-dir>/pending-del/            DELs that no agent answered, written by the plugin ([`Notes`])
//! ```
//! A file appears whole or not at all (temporary name, then rename). Nothing is synced to disk: the directory is a tmpfs,
//! and what it describes is gone after a reboot, too. Every function blocks; call it where that is allowed.

mod file;
#[cfg(test)]
mod fuzz;
mod notes;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tombolo_core::datapath::conventions::pod_own_table;
use tombolo_core::datapath::{EndpointAddress, OwnTable, desired};
use tombolo_core::types::{AttachmentKey, Family, Millis, PodRef, PortMapping};
use tombolo_netlink::wire::Belongings;

use crate::steps;
pub use file::Error;
pub(crate) use file::{ensure_dir, read_versioned, write_versioned};
pub use notes::Notes;

/// Where an attachment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The kernel is being changed. Found at start: undo.
    Adding,
    /// ADD has answered.
    Ready,
    /// Being removed. Found at start: finish.
    Draining,
}

/// The namespace of the pod as the plugin saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRecord {
    pub dev: u64,
    pub ino: u64,
    /// As the runtime named it; for results and for people.
    pub path: String,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub key: AttachmentKey,
    pub pod: PodRef,
    pub phase: Phase,
    pub netns: NetnsRecord,
    /// IPv4 first.
    pub addresses: Vec<EndpointAddress>,
    /// Ports of the node that lead to it; sorted. Files of agents that knew none have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<PortMapping>,
    /// Bytes, both ends.
    pub mtu: u32,
    /// Index of the host end, once made.
    pub host_ifindex: Option<u32>,
    /// Families in which another interface has the pod's default route; this one has a table of its own for them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub beside: BTreeSet<Family>,
    pub since: Millis,
    /// When an ADD of it was last answered, in nanoseconds since boot, as this process knows: at the latest when it began.
    #[serde(skip)]
    pub answered: u64,
}

impl Record {
    /// The table that it has for itself in its pod, if any.
    pub fn own_table(&self) -> OwnTable {
        OwnTable {
            table: self.host_ifindex.map_or(0, pod_own_table),
            families: self.beside.clone(),
        }
    }

    /// What DEL takes away.
    pub fn belongings(&self) -> Belongings {
        Belongings {
            host_ifindex: self.host_ifindex,
            ips: self.addresses.iter().map(|address| address.ip).collect(),
            own_table: self.own_table(),
            host_ports: desired::host_ports(&self.host_ports, &self.addresses),
        }
    }
}

/// A resting address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cooling {
    pub address: EndpointAddress,
    pub until: Millis,
}

/// A file that could not be read, and where it is now.
#[derive(Debug)]
pub struct Quarantined {
    pub moved_to: PathBuf,
    pub error: Error,
}

/// All that was found at start.
#[derive(Debug, Default)]
pub struct Found {
    pub records: Vec<Record>,
    pub cooling: Vec<Cooling>,
    pub quarantined: Vec<Quarantined>,
}

/// The directories.
#[derive(Clone, Debug)]
pub struct Journal {
    attachments: PathBuf,
    cooling: PathBuf,
    quarantine: PathBuf,
}

impl Journal {
    /// Makes the directories (0700) below `run_dir`, or checks those that are there.
    pub fn open(run_dir: &Path) -> Result<Self, Error> {
        let journal = Self {
            attachments: run_dir.join("journal"),
            cooling: run_dir.join("cooling"),
            quarantine: run_dir.join("quarantine"),
        };
        for dir in [
            run_dir,
            &journal.attachments,
            &journal.cooling,
            &journal.quarantine,
        ] {
            ensure_dir(dir)?;
        }
        Ok(journal)
    }

    /// Where files that cannot be used are put.
    pub fn quarantine_dir(&self) -> &Path {
        &self.quarantine
    }

    /// Reads everything. A file that cannot be read is moved aside and reported; an unfinished temporary file is removed.
    pub fn load(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        for path in file::list(&self.attachments)? {
            let wrong_name = |record: &Record| file::stem(&path) != record.key.file_stem();
            match read_versioned::<Record>(&path) {
                Ok(record) if wrong_name(&record) => {
                    let error = Error::Misnamed {
                        path: path.clone(),
                        key: record.key.to_string(),
                    };
                    found.quarantined.push(self.quarantine(&path, error)?);
                }
                Ok(record) => found.records.push(record),
                Err(error) => found.quarantined.push(self.quarantine(&path, error)?),
            }
        }
        for path in file::list(&self.cooling)? {
            let wrong_name =
                |cooling: &Cooling| file::stem(&path) != cooling.address.ip.to_string();
            match read_versioned::<Cooling>(&path) {
                // It would not be found when the rest is over.
                Ok(cooling) if wrong_name(&cooling) => {
                    let error = Error::Misnamed {
                        path: path.clone(),
                        key: cooling.address.ip.to_string(),
                    };
                    found.quarantined.push(self.quarantine(&path, error)?);
                }
                Ok(cooling) => found.cooling.push(cooling),
                Err(error) => found.quarantined.push(self.quarantine(&path, error)?),
            }
        }
        Ok(found)
    }

    /// Writes or replaces an attachment's file.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self
            .attachments
            .join(format!("{}.json", record.key.file_stem()));
        write_versioned(&path, record)
    }

    /// Removes an attachment's file; absent is fine.
    pub fn remove(&self, key: &AttachmentKey) -> Result<(), Error> {
        file::remove(&self.attachments.join(format!("{}.json", key.file_stem())))
    }

    /// Notes that an address rests.
    pub fn cool(&self, cooling: &Cooling) -> Result<(), Error> {
        write_versioned(&self.cooling_path(cooling.address.ip), cooling)
    }

    /// Forgets that note; absent is fine.
    pub fn cooled(&self, ip: IpAddr) -> Result<(), Error> {
        file::remove(&self.cooling_path(ip))
    }

    fn cooling_path(&self, ip: IpAddr) -> PathBuf {
        self.cooling.join(format!("{ip}.json"))
    }

    fn quarantine(&self, path: &Path, error: Error) -> Result<Quarantined, Error> {
        let moved_to =
            steps::START_QUARANTINE.around(|| file::move_aside(path, &self.quarantine))?;
        Ok(Quarantined { moved_to, error })
    }
}
