//! Carries out one call of the planner: intent first (the Eni object), then the cloud, then the inventory.
//!
//! A call whose outcome is unknown is followed by a reading, so that the next plan sees what really happened. Before
//! anything is detached or deleted, the cloud is asked once more whose it is and whether it is empty. Dropping a call's
//! future at any await leaves nothing that the next observation does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube::ResourceExt;
use tombolo_api::{Eni, EniSpec, TAG_CLUSTER, TAG_ENI, TAG_NODE};
use tombolo_cloud_sim::client;
use tombolo_cloud_sim::wire::{
    AssignAddresses, AttachNic, CreateNic, DeleteNic, DescribeNics, DetachNic, NicInfo, NicStatus,
    UnassignAddresses,
};
use tombolo_core::eni::{Action, Failure};
use tombolo_core::types::{Family, Reason};

use super::{ledger, reply, view};
use crate::api;
use crate::clock;
use crate::shared::Shared;

/// The node for which calls are made.
#[derive(Clone, Debug)]
pub struct Target {
    pub node: String,
    pub instance: String,
    /// Security groups of new NICs.
    pub security_groups: Vec<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cloud(#[from] client::Error),
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The last look before a detachment or deletion showed something else than was expected.
    #[error("{operation} {nic}: the cloud shows that it {problem}")]
    Unexpected {
        /// What was about to be done.
        operation: &'static str,
        /// The NIC.
        nic: String,
        /// What is in the way.
        problem: &'static str,
    },
    /// A reply came that is none to the call that was made. The outcome is unknown.
    #[error("{operation} {subject}: the reply belongs to another call")]
    Misplaced {
        /// What was asked for.
        operation: &'static str,
        /// The NIC or its object.
        subject: String,
    },
}

impl Error {
    /// The typed reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Cloud(error) => error.reason(),
            Self::Api(_) | Self::Unexpected { .. } | Self::Misplaced { .. } => Reason::CloudError,
        }
    }

    /// For the planner.
    pub fn failure(&self) -> Failure {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Failure {
            reason: self.reason(),
            message,
            spread: clock::spread(),
        }
    }
}

/// Addresses that a call brought.
pub type Given = BTreeSet<IpAddr>;

/// Carries out one call; marks and reports are not calls and do nothing here.
pub async fn execute(shared: &Shared, target: &Target, action: Action) -> Result<Given, Error> {
    let caller = Caller { shared, target };
    let given = match action {
        Action::CreateNic {
            eni,
            subnet,
            device_index,
            initial4,
            initial6,
        } => {
            caller
                .create(&eni, &subnet, device_index, initial4, initial6)
                .await?
        }
        Action::AttachNic {
            nic, device_index, ..
        } => caller.attach(nic.0, device_index).await.map(nothing)?,
        Action::AssignAddresses {
            nic, family, count, ..
        } => caller.assign(nic.0, family, count).await?,
        Action::UnassignAddresses { nic, addresses, .. } => {
            let addresses = addresses.into_iter().collect();
            caller.unassign(nic.0, addresses).await.map(nothing)?
        }
        Action::DetachNic { nic, .. } => caller.detach(nic.0).await.map(nothing)?,
        Action::DeleteNic { eni, nic } => {
            let nic = nic.map(|nic| nic.0);
            caller.delete(&eni, nic).await.map(nothing)?
        }
        Action::MarkRelease(_) | Action::Unmark(_) | Action::Report(_) | Action::ClearReport(_) => {
            nothing(())
        }
    };
    Ok(given)
}

/// Most calls bring none.
const fn nothing((): ()) -> Given {
    Given::new()
}

struct Caller<'a> {
    shared: &'a Shared,
    target: &'a Target,
}

impl Caller<'_> {
    fn tags(&self, eni: &str) -> BTreeMap<String, String> {
        let tags = [
            (TAG_CLUSTER, self.shared.config.cluster.as_str()),
            (TAG_ENI, eni),
            (TAG_NODE, &self.target.node),
        ];
        tags.into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The NIC that was made for this Eni object, if there is one.
    async fn find(&self, eni: &str) -> Result<Option<NicInfo>, client::Error> {
        let mut tags = self.tags(eni);
        tags.remove(TAG_NODE);
        let filter = DescribeNics {
            tags,
            ..DescribeNics::default()
        };
        Ok(self.shared.cloud.call(&filter).await?.into_iter().next())
    }

    async fn create(
        &self,
        name: &str,
        subnet: &str,
        index: u16,
        initial4: u16,
        initial6: u16,
    ) -> Result<Given, Error> {
        let shared = self.shared;
        let (object, resumed) = match shared.objects.enis.get(name) {
            Some(object) => (object, true),
            None => {
                let spec = EniSpec {
                    node: self.target.node.clone(),
                    instance_id: self.target.instance.clone(),
                    device_index: index,
                    subnet: subnet.to_owned(),
                    security_groups: self.target.security_groups.clone(),
                    adopted: false,
                    initial4,
                    initial6,
                };
                (
                    shared
                        .writer
                        .create_eni(&ledger::object(name, spec))
                        .await?,
                    false,
                )
            }
        };
        // An earlier attempt may have made it.
        let found = if resumed {
            self.find(name).await?
        } else {
            None
        };
        let nic = match found {
            Some(nic) => nic,
            None => self.make(&object, initial4, initial6).await?,
        };
        let given = nic.secondary.iter().copied().collect();
        shared
            .inventory
            .write(|snapshot| snapshot.put_nic(nic, clock::now(), shared.inventory.trust()));
        Ok(given)
    }

    /// Makes the NIC of an Eni object. What the object says is asked for first: the same token and the same words as in an
    /// earlier attempt, so that the cloud itself tells of a NIC that no reading shows yet.
    async fn make(&self, eni: &Eni, initial4: u16, initial6: u16) -> Result<NicInfo, Error> {
        let meant = (eni.spec.initial4, eni.spec.initial6);
        let wanted = (initial4, initial6);
        match self.make_with(eni, meant).await {
            // No earlier attempt made it, then. What is wanted by now may be less.
            Err(Error::Cloud(error))
                if meant != wanted
                    && matches!(error.reason(), Reason::SubnetFull | Reason::AddressLimit) =>
            {
                self.make_with(eni, wanted).await
            }
            other => other,
        }
    }

    async fn make_with(
        &self,
        eni: &Eni,
        (initial4, initial6): (u16, u16),
    ) -> Result<NicInfo, Error> {
        let name = eni.name_any();
        let call = CreateNic {
            subnet: eni.spec.subnet.clone(),
            description: format!(
                "tombolo {} {} {name}",
                self.shared.config.cluster, self.target.node
            ),
            // The UID: a later object of the same name is another NIC. The counts: the cloud refuses one token with two
            // meanings.
            client_token: eni
                .metadata
                .uid
                .as_ref()
                .map(|uid| format!("{uid}-{initial4}-{initial6}")),
            ipv4_count: initial4,
            ipv6_count: initial6,
            security_groups: eni.spec.security_groups.clone(),
            tags: self.tags(&name),
        };
        let unknown = match self.shared.cloud.call(&call).await {
            Ok(nic) if reply::made(&nic, &call) => return Ok(nic),
            Ok(_) => Error::Misplaced {
                operation: "make",
                subject: name.clone(),
            },
            Err(error) if error.outcome_unknown() => error.into(),
            Err(error) => return Err(self.refused(error)),
        };
        self.find(&name).await?.ok_or(unknown)
    }

    async fn attach(&self, nic: String, device_index: u16) -> Result<(), Error> {
        let call = AttachNic {
            nic: nic.clone(),
            instance: self.target.instance.clone(),
            device_index,
            delete_on_termination: true,
        };
        let error = match self.shared.cloud.call(&call).await {
            Ok(attachment) if reply::attached(&attachment, &call) => {
                self.shared
                    .inventory
                    .write(|snapshot| snapshot.attaching(&nic, attachment));
                return Ok(());
            }
            Ok(_) => Error::Misplaced {
                operation: "attach",
                subject: nic.clone(),
            },
            Err(error) => self.refused(error),
        };
        let now = self.reread(&nic).await?;
        let attached = now.and_then(|info| info.attachment);
        if attached.is_some_and(|attachment| attachment.instance == self.target.instance) {
            return Ok(());
        }
        Err(error)
    }

    async fn assign(&self, nic: String, family: Family, count: u16) -> Result<Given, Error> {
        let call = AssignAddresses {
            nic: nic.clone(),
            family,
            count,
        };
        let had: BTreeSet<IpAddr> = self.shared.inventory.read(|snapshot| {
            let held = snapshot.nics.get(&nic).map(|record| &record.info.secondary);
            held.into_iter().flatten().copied().collect()
        });
        match self.shared.cloud.call(&call).await {
            Ok(assigned) => {
                let (now, trust) = (clock::now(), self.shared.inventory.trust());
                let taken_in = self.shared.inventory.write(|snapshot| {
                    let fits = reply::assigned(&assigned.addresses, &call, &had, snapshot);
                    if fits {
                        snapshot.assigned(&nic, &assigned.addresses, now, trust);
                    }
                    fits
                });
                if taken_in {
                    return Ok(assigned.addresses.into_iter().collect());
                }
                self.reread(&nic).await?;
                Err(Error::Misplaced {
                    operation: "assign addresses to",
                    subject: nic,
                })
            }
            Err(error) => {
                if error.outcome_unknown() || error.is_not_found() {
                    self.reread(&nic).await?;
                }
                Err(self.refused(error))
            }
        }
    }

    async fn unassign(&self, nic: String, addresses: Vec<IpAddr>) -> Result<(), Error> {
        let call = UnassignAddresses {
            nic: nic.clone(),
            addresses: addresses.clone(),
        };
        let result = self.shared.cloud.call(&call).await;
        if let Err(error) = result {
            // Refused or unknown: what the NIC does not hold any more has gone.
            let now = self.reread(&nic).await?;
            let left = |ip: &&IpAddr| {
                now.as_ref()
                    .is_some_and(|info| info.secondary.contains(*ip))
            };
            let gone: Vec<IpAddr> = addresses.iter().filter(|ip| !left(ip)).copied().collect();
            let all_gone = gone.len() == addresses.len();
            self.given_back(&nic, &gone);
            return if all_gone {
                Ok(())
            } else {
                Err(self.refused(error))
            };
        }
        self.given_back(&nic, &addresses);
        Ok(())
    }

    fn given_back(&self, nic: &str, addresses: &[IpAddr]) {
        let trust = self.shared.inventory.trust();
        self.shared
            .inventory
            .write(|snapshot| snapshot.unassigned(nic, addresses, clock::now(), trust));
    }

    async fn detach(&self, nic: String) -> Result<(), Error> {
        let unexpected = |problem| Error::Unexpected {
            operation: "detach",
            nic: nic.clone(),
            problem,
        };
        let Some(info) = self.reread(&nic).await? else {
            return Ok(());
        };
        if !view::is_ours(&info, &self.shared.config.cluster) {
            return Err(unexpected("is not of this cluster"));
        }
        // Addresses of one that is still being attached were never the node's.
        if !info.secondary.is_empty() && info.status != NicStatus::Attaching {
            return Err(unexpected("has addresses"));
        }
        let Some(attachment) = &info.attachment else {
            return Ok(());
        };
        if attachment.instance != self.target.instance {
            return Err(unexpected("is attached to another instance"));
        }
        if attachment.device_index == 0 {
            return Err(unexpected("is a primary NIC"));
        }
        if info.status != NicStatus::Detaching
            && let Err(error) = self
                .shared
                .cloud
                .call(&DetachNic { nic: nic.clone() })
                .await
        {
            let now = self.reread(&nic).await?;
            if now.is_some_and(|info| {
                info.attachment.is_some() && info.status != NicStatus::Detaching
            }) {
                return Err(self.refused(error));
            }
        }
        self.shared
            .inventory
            .write(|snapshot| snapshot.detaching(&nic));
        Ok(())
    }

    async fn delete(&self, eni: &str, nic: Option<String>) -> Result<(), Error> {
        let nic = match nic {
            Some(nic) => Some(nic),
            None => self.find(eni).await?.map(|info| info.id),
        };
        if let Some(nic) = nic {
            delete_nic(self.shared, &nic).await?;
        }
        if let Some(object) = self.shared.objects.enis.get(eni) {
            self.shared.writer.drop_eni(&object).await?;
        }
        Ok(())
    }

    /// Reads one NIC; `None` where it does not exist.
    async fn reread(&self, nic: &str) -> Result<Option<NicInfo>, client::Error> {
        reread(self.shared, nic).await
    }

    /// A refusal for want of addresses: the counts are out of date.
    fn refused(&self, error: client::Error) -> Error {
        if matches!(
            error.reason(),
            Reason::SubnetFull | Reason::AddressLimit | Reason::NicLimit
        ) {
            self.shared.inventory.want_sweep();
        }
        error.into()
    }
}

async fn reread(shared: &Shared, nic: &str) -> Result<Option<NicInfo>, client::Error> {
    let filter = DescribeNics {
        ids: vec![nic.to_owned()],
        ..DescribeNics::default()
    };
    let gone = match shared.inventory.refresh(&filter).await {
        Ok(nics) => match nics.into_iter().find(|info| info.id == nic) {
            Some(info) => return Ok(Some(info)),
            None => true,
        },
        Err(error) if error.is_not_found() => true,
        Err(error) => return Err(error),
    };
    if gone {
        // One reading that shrinks the world proves nothing yet; a whole one soon is the second.
        shared.inventory.want_sweep();
    }
    Ok(None)
}

/// Deletes a NIC of this cluster that is attached to nothing, after a last look. One that does not exist is fine.
pub async fn delete_nic(shared: &Shared, nic: &str) -> Result<(), Error> {
    let unexpected = |problem| Error::Unexpected {
        operation: "delete",
        nic: nic.to_owned(),
        problem,
    };
    let forget = || {
        shared
            .inventory
            .write(|snapshot| snapshot.forget(nic, clock::now(), shared.inventory.trust()))
    };
    if let Some(info) = reread(shared, nic).await? {
        if !view::is_ours(&info, &shared.config.cluster) {
            return Err(unexpected("is not of this cluster"));
        }
        if info.attachment.is_some() {
            return Err(unexpected("is attached"));
        }
        match shared
            .cloud
            .call(&DeleteNic {
                nic: nic.to_owned(),
            })
            .await
        {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    forget();
    Ok(())
}
