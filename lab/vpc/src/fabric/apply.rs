//! Makes the fabric as desired: compares what should be plugged with what is, and changes the difference. Links are looked up
//! in the kernel every time, so one that vanished (a veth dies with the namespace that it was moved to) is plugged again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use tombolo_core::types::Mac;

use super::command::{self, ip_batch, nft};
use super::ns::{Netns, NsError, await_active, await_advertised, await_local, link_names, sysctls};
use super::ra::RaSocket;
use super::setup::NIC_GROUP;
use super::{Outcome, guest, rules, setup};
use crate::admin::CounterReport;
use crate::plan::{Desired, FabricPlan, Namespace, OsConfig, Plug, link_name, short_id};

/// Link group of links that are about to be deleted together.
const DOOMED_GROUP: u32 = 2;

/// What is plugged, as this thread made it.
#[derive(Debug)]
pub struct State {
    plan: FabricPlan,
    ra: RaSocket,
    namespaces: BTreeMap<String, (Namespace, Netns)>,
    plugs: BTreeMap<String, Plug>,
}

impl State {
    pub const fn new(plan: FabricPlan, ra: RaSocket) -> Self {
        Self {
            plan,
            ra,
            namespaces: BTreeMap::new(),
            plugs: BTreeMap::new(),
        }
    }

    /// One round. Never fails as a whole: what could not be done is in the outcome and is tried again next time.
    pub fn apply(&mut self, desired: &Desired) -> Outcome {
        let mut errors = BTreeMap::new();
        match link_names() {
            Ok(links) => self.unplug(desired, &links.into_iter().collect(), &mut errors),
            Err(error) => note(&mut errors, "links", error),
        }
        self.open_namespaces(desired, &mut errors);
        for (nic, want) in &desired.plugs {
            let done = match self.plugs.get(nic) {
                Some(have) if have == want => continue,
                Some(have) => change(
                    nic,
                    have,
                    want,
                    self.namespaces.get(&want.instance).map(|(_, n)| n),
                ),
                None => self.plug(nic, want),
            };
            match done {
                Ok(()) => drop(self.plugs.insert(nic.clone(), want.clone())),
                Err(error) => note(&mut errors, nic, error),
            }
        }
        self.close_namespaces(desired, &mut errors);
        Outcome {
            plugged: self.plugs.keys().cloned().collect(),
            errors,
        }
    }

    /// Unplugs what is not desired, and forgets what vanished.
    fn unplug(
        &mut self,
        desired: &Desired,
        links: &BTreeSet<String>,
        errors: &mut BTreeMap<String, String>,
    ) {
        let same_place = |a: &Plug, b: &Plug| {
            (&a.instance, a.device_index, a.mac, &a.os)
                == (&b.instance, b.device_index, b.mac, &b.os)
        };
        let goes: Vec<String> = self
            .plugs
            .iter()
            .filter(|(nic, have)| {
                let wanted = desired
                    .plugs
                    .get(*nic)
                    .is_some_and(|want| same_place(have, want));
                !wanted || !links.contains(&link_name(nic))
            })
            .map(|(nic, _)| nic.clone())
            .collect();
        let mut script = String::new();
        let mut doomed = String::new();
        for nic in &goes {
            let link = link_name(nic);
            if links.contains(&link) {
                line!(doomed, "link set {link} down group {DOOMED_GROUP}");
            }
            if let Some(plug) = self.plugs.get(nic) {
                rules::remove_nic(&mut script, nic, &link, plug);
                self.ra.forget(&link);
            }
        }
        if !doomed.is_empty() {
            // One delete for all: each costs a grace period otherwise.
            line!(doomed, "link delete group {DOOMED_GROUP}");
        }
        // Links first: a link without its chain would be a hole.
        let done = ip_batch(&doomed).and_then(|()| nft(&script));
        match done {
            Ok(()) => self.plugs.retain(|nic, _| !goes.contains(nic)),
            Err(error) => goes.iter().for_each(|nic| note(errors, nic, &error)),
        }
    }

    fn open_namespaces(&mut self, desired: &Desired, errors: &mut BTreeMap<String, String>) {
        for (instance, namespace) in &desired.namespaces {
            if self.namespaces.contains_key(instance) {
                continue;
            }
            let opened = match namespace {
                Namespace::Owned(name) => Netns::create(name),
                Namespace::Foreign(path) => Netns::open(path),
            };
            match opened {
                Ok(netns) => drop(
                    self.namespaces
                        .insert(instance.clone(), (namespace.clone(), netns)),
                ),
                Err(error) => note(errors, instance, error),
            }
        }
    }

    fn close_namespaces(&mut self, desired: &Desired, errors: &mut BTreeMap<String, String>) {
        self.namespaces.retain(|instance, (namespace, _)| {
            if desired.namespaces.contains_key(instance) {
                return true;
            }
            if let Namespace::Owned(name) = namespace
                && let Err(error) = Netns::remove(name)
            {
                note(errors, instance, error);
                return true;
            }
            false
        });
    }

    /// Plugs a NIC, or leaves nothing.
    fn plug(&self, nic: &str, want: &Plug) -> Result<(), NsError> {
        let link = link_name(nic);
        let Some((_, netns)) = self.namespaces.get(&want.instance) else {
            return Err(NsError::NotOpen(want.instance.clone()));
        };
        let undo_link = || {
            if let Err(error) = ip_batch(&format!("link delete {link}\n")) {
                tracing::debug!(nic, %error, "nothing to undo");
            }
        };
        let name = guest::new_name(netns, want.device_index)?;
        ip_batch(&self.links(&link, &name, want, netns)).inspect_err(|_| undo_link())?;
        // A namespace other than the first has no default of this to inherit.
        sysctls(&[(format!("net/ipv4/neigh/{link}/proxy_delay"), "0")])
            .inspect_err(|_| undo_link())?;
        let mut script = String::new();
        rules::add_nic(&mut script, nic, &link, want);
        nft(&script).inspect_err(|_| undo_link())?;
        if let Some(os) = &want.os {
            configure(netns, os)
                .and_then(|()| await_active(&link))
                .and_then(|()| await_local(&link, self.plan.gateway6))
                .inspect_err(|_| {
                    undo_link();
                    let mut script = String::new();
                    rules::remove_nic(&mut script, nic, &link, want);
                    if let Err(error) = nft(&script) {
                        tracing::error!(nic, %error, "rules of a NIC that was not plugged remain");
                    }
                })?;
            if os.address6.is_some() {
                self.advertise(nic, &link, want.router_mac, netns);
            }
        }
        Ok(())
    }

    /// The first router advertisement. Its failure leaves the instance without a route until the next one, but plugged.
    fn advertise(&self, nic: &str, link: &str, mac: Mac, netns: &Netns) {
        let sent = self
            .ra
            .advertise_on(link, mac)
            .map_err(|source| NsError::Io {
                what: "send a router advertisement".to_owned(),
                path: link.to_owned(),
                source,
            });
        if let Err(error) = sent.and_then(|()| netns.run(await_advertised)) {
            tracing::warn!(nic, %error, "the instance has no IPv6 default route yet");
        }
    }

    fn links(&self, link: &str, name: &str, want: &Plug, netns: &Netns) -> String {
        let mut out = String::new();
        let Plug {
            mac,
            router_mac,
            mtu,
            ..
        } = want;
        line!(
            out,
            "link add {link} address {router_mac} mtu {mtu} group {NIC_GROUP} type veth peer name {name} address {mac} mtu {mtu} netns {}",
            netns.child_path()
        );
        line!(out, "addr add {}/64 dev {link} nodad", self.plan.gateway6);
        line!(out, "link set {link} up");
        for address in &want.addresses {
            own(&mut out, link, want, *address);
        }
        out
    }

    /// Reads all counters.
    pub fn counters(&self) -> Result<CounterReport, NsError> {
        let text = command::run("nft", &["-j", "list", "counters"], "")?;
        let mut counts = parse_counters(&text);
        let mut take = |name: &str| counts.remove(name).unwrap_or_default();
        let nics = self.plugs.keys().map(|nic| {
            let id = short_id(nic);
            let counters = crate::admin::NicCounters {
                spoof: take(&format!("spoof_{id}")),
                no_internet: take(&format!("noinet_{id}")),
                not_carried: take(&format!("other_{id}")),
            };
            (nic.clone(), counters)
        });
        let nics = nics.collect();
        Ok(CounterReport {
            spoof_total: take("spoof_total"),
            no_internet_total: take("no_internet_total"),
            nics,
        })
    }

    pub fn reset_counters(&self) -> Result<(), NsError> {
        command::run("nft", &["reset", "counters"], "")
            .map(drop)
            .map_err(Into::into)
    }

    /// Removes everything. Returns what could not be removed.
    pub fn down(&mut self) -> Vec<String> {
        let outcome = self.apply(&Desired::default());
        let mut left: Vec<String> = outcome
            .errors
            .into_iter()
            .map(|(what, why)| format!("{what}: {why}"))
            .collect();
        left.extend(setup::remove(&self.plan));
        left
    }
}

/// Changes addresses and MTU of a NIC that stays where it is.
fn change(nic: &str, have: &Plug, want: &Plug, netns: Option<&Netns>) -> Result<(), NsError> {
    let link = link_name(nic);
    let mut batch = String::new();
    let mut script = String::new();
    for address in have.addresses.difference(&want.addresses) {
        rules::element(&mut script, "delete", &link, have, *address);
        let host = if address.is_ipv4() { 32 } else { 128 };
        // An earlier attempt may have got half-way: after `own` there is something to delete.
        own(&mut batch, &link, have, *address);
        line!(batch, "route del {address}/{host} dev {link}");
        line!(batch, "neigh del {address} dev {link}");
    }
    for address in want.addresses.difference(&have.addresses) {
        rules::element(&mut script, "add", &link, want, *address);
        own(&mut batch, &link, want, *address);
    }
    if have.mtu != want.mtu {
        line!(batch, "link set {link} mtu {}", want.mtu);
        if let Some(netns) = netns
            && let Err(error) = guest::set_mtu(netns, want.mac, want.mtu)
        {
            tracing::warn!(nic, %error, "the guest's end keeps its MTU");
        }
    }
    // The nft transaction last: until it succeeds, the rules are those of `have`, which a later round relies on.
    ip_batch(&batch)?;
    nft(&script)?;
    Ok(())
}

fn own(out: &mut String, link: &str, plug: &Plug, address: IpAddr) {
    let host = if address.is_ipv4() { 32 } else { 128 };
    // replace: an earlier attempt may have got half-way.
    line!(
        out,
        "neigh replace {address} lladdr {} dev {link} nud permanent",
        plug.mac
    );
    line!(out, "route replace {address}/{host} dev {link}");
}

/// Configures a primary NIC as an operating system does with DHCP and router advertisements. No duplicate address detection:
/// an instance of a VPC does not start with a second of silence.
fn configure(netns: &Netns, os: &OsConfig) -> Result<(), NsError> {
    let mut out = String::new();
    line!(out, "link set lo up");
    line!(out, "addr add {} dev eth0", os.address4);
    if let Some(address) = os.address6 {
        line!(out, "addr add {address}/128 dev eth0 nodad");
    }
    line!(out, "link set eth0 up");
    line!(out, "route add default via {} dev eth0", os.gateway4);
    netns.run(|| {
        sysctls(&[
            ("net/ipv6/conf/eth0/accept_dad", "0"),
            ("net/ipv6/conf/eth0/accept_ra", "1"),
            ("net/ipv6/conf/eth0/autoconf", "0"),
        ])?;
        ip_batch(&out)?;
        os.address6
            .map_or(Ok(()), |address| await_local("eth0", address))
    })
}

/// Packets by counter name, from `nft -j list counters`. What is not a counter is left out.
fn parse_counters(text: &str) -> BTreeMap<String, u64> {
    let parsed: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let items = parsed["nftables"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let counter = item.get("counter")?;
            Some((
                counter["name"].as_str()?.to_owned(),
                counter["packets"].as_u64()?,
            ))
        })
        .collect()
}

fn note(errors: &mut BTreeMap<String, String>, what: &str, error: impl std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    errors.insert(what.to_owned(), text);
}
