//! Doing a fault, and undoing it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tombolo_cloud_sim::wire::{CreateNic, DeleteNic};
use tombolo_lab::state::Node;
use tombolo_lab::up::wait_for;
use tombolo_lab_vpc::admin::{Calls, ForceDetach, MoveAddress, SetKnob, TakeAddress, VanishNic};
use tombolo_lab_vpc::knobs::Knob;

use super::faults::{ATTACHING, Fault, Misdeed, Row, WIDE};
use super::{Day, PATIENCE};
use crate::bed::FOR_EVER;
use crate::support::in_ns;

impl Day<'_> {
    pub(super) async fn plant(&self, row: &Row, node: &Node) -> Result<()> {
        match &row.fault {
            Fault::Turned(knobs) => {
                for knob in knobs {
                    self.turn(knob.clone()).await?;
                }
                Ok(())
            }
            Fault::Deed(deed) => self.commit(*deed, node).await,
        }
    }

    pub(super) async fn commit(&self, deed: Misdeed, node: &Node) -> Result<()> {
        match deed {
            Misdeed::Crowd => {}
            Misdeed::HideInstance => {
                let (what, replies) = (node.instance.clone(), FOR_EVER);
                self.turn(Knob::Hide { what, replies }).await?;
                self.readings(2).await?;
            }
            Misdeed::FillSubnet { v4 } => {
                let mut count = 49;
                while count > 0 {
                    let (ipv4_count, ipv6_count) = if v4 { (count, 0) } else { (0, count) };
                    let call = CreateNic {
                        subnet: "subnet-a".to_owned(),
                        description: "a stranger's".to_owned(),
                        client_token: None,
                        ipv4_count,
                        ipv6_count,
                        security_groups: Vec::new(),
                        tags: BTreeMap::new(),
                    };
                    match self.cloud.cloud(&call).await {
                        Ok(nic) => self.strangers.borrow_mut().push(nic.id),
                        Err(_) => count /= 2,
                    }
                }
            }
            Misdeed::HideLink => {
                // The NIC with the free address is to be the second one.
                self.eat(node).await?;
                self.rest(node).await?;
                in_ns(
                    &node.netns(),
                    "ip",
                    &["link", "set", "eth1", "address", "02:00:00:00:ff:ff"],
                )?;
            }
            Misdeed::DetachNic | Misdeed::DeleteNic => {
                let nic = self.free(node).await?.1;
                // The node is to see it first. An operator that reads while the NIC is on its way out takes it off the
                // node's list, and then the node lacks nothing.
                let operator = self.lab.services.iter().find(|p| p.name == "operator");
                let operator = operator.context("an operator runs")?;
                operator.signal(Signal::STOP)?;
                let done = if deed == Misdeed::DetachNic {
                    self.cloud.lab(&ForceDetach { nic }).await
                } else {
                    self.cloud.lab(&VanishNic { nic }).await
                };
                let seen = wait_for("the node sees it", PATIENCE, async || {
                    let state = self.state(node).await?;
                    let problems = state["problems"].as_array().map_or(0, Vec::len);
                    Ok(problems > 0)
                });
                let seen = seen.await;
                operator.signal(Signal::CONT)?;
                done?;
                seen?;
            }
            Misdeed::TakeFree => {
                let (address, _) = self.free(node).await?;
                self.cloud.lab(&TakeAddress { address }).await?;
                wait_for("another one", PATIENCE, async || {
                    Ok(self.free(node).await.is_ok_and(|(ip, _)| ip != address))
                })
                .await?;
            }
            Misdeed::TakeBound | Misdeed::MoveBound => {
                let address = self.add_now(node, &self.name())?;
                if deed == Misdeed::TakeBound {
                    self.cloud.lab(&TakeAddress { address }).await?;
                } else {
                    let other = self.lab.node(WIDE)?;
                    let (_, to) = self.free(other).await?;
                    self.cloud.lab(&MoveAddress { address, to }).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn heal(&self, row: &Row, node: &Node, had: usize) -> Result<()> {
        self.turn(Knob::Reset).await?;
        self.turn(Knob::AttachDelay { ms: ATTACHING }).await?;
        let strangers = self.strangers.take();
        for nic in &strangers {
            let nic = nic.clone();
            self.cloud.cloud(&DeleteNic { nic }).await?;
        }
        if !strangers.is_empty() {
            // Until they are believed gone, the operator takes nothing that they had.
            self.readings(3).await?;
        }
        match row.fault {
            Fault::Deed(Misdeed::HideLink) => {
                let mac = self.mac_of(node, 1).await?;
                in_ns(
                    &node.netns(),
                    "ip",
                    &["link", "set", "eth1", "address", &mac],
                )?;
            }
            // What is wrong with them ends with them.
            Fault::Deed(Misdeed::TakeBound | Misdeed::MoveBound | Misdeed::Crowd) => {
                self.leave(had)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) async fn turn(&self, knob: Knob) -> Result<()> {
        self.cloud.lab(&SetKnob { knob }).await?;
        Ok(())
    }

    /// Lets the operator take so many whole readings from now on.
    pub(super) async fn readings(&self, count: u64) -> Result<()> {
        let taken = async || -> Result<u64> {
            let calls = self.cloud.lab(&Calls {}).await?;
            Ok(calls.get("DescribeVpc").map_or(0, |calls| calls.total()))
        };
        let begun = taken().await?;
        wait_for("readings", PATIENCE, async || {
            Ok(taken().await? > begun + count)
        })
        .await
    }
}
