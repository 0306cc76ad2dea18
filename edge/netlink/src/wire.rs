//! One pod: create its link, configure both sides, check it, detach it.
//!
//! ```text
//!   PodSide::open ─▶ create ─▶ (core: desired::endpoint with the host index) ─▶ configure         ADD
//!   detach_pod (synchronous: name free, routes and sources gone) ─▶ reap_doomed (background)      DEL
//! ```
//! A pod may have other interfaces, ours or another's. In families in which one of them has the pod's default route before
//! us, ours goes into a table of its own inside the pod, with rules for what comes from its addresses or is bound to it.
//!
//! Every step may be repeated. Nothing passes before the last step of `configure`.

mod check;
mod points;
mod ready;
mod recycle;

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustix::io::Errno;
use tombolo_core::datapath::conventions::{
    DOOMED_LINK_GROUP, MAIN_TABLE, POD_GATEWAY4, POD_GATEWAY6, POD_LINK_GROUP,
    PRIORITY_POD_OWN_TABLE, ROUTE_METRIC,
};
use tombolo_core::datapath::{
    Address, EndpointState, Neighbour, OwnTable, Route, RouteKind, Rule, RuleAction, Selector,
    Sysctl,
};
use tombolo_core::types::{AttachmentKey, Family, Mac};

pub use check::check_host;
pub use points::POINTS;

use crate::kernel::is_host_end;
use crate::link::{Link, Veth};
use crate::nft::Source;
use crate::{Error, Kernel, Netns, Request, Socket, addr, link, neigh, nft, route, rule, sysctl};

/// A pod's namespace with a socket in it.
#[derive(Debug)]
pub struct PodSide<'a> {
    /// The namespace.
    pub netns: &'a Netns,
    /// rtnetlink in it.
    pub route: Socket,
}

/// The two ends of a pod link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Index in the pod.
    pub pod_ifindex: u32,
    /// Index on the node.
    pub host_ifindex: u32,
}

impl<'a> PodSide<'a> {
    /// Opens a socket in the pod's namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open(netns: &'a Netns) -> Result<Self, Error> {
        Ok(Self {
            netns,
            route: Socket::route_in(netns)?,
        })
    }

    /// The link that an earlier [`PodSide::create`] made for this key, if it is there.
    ///
    /// # Errors
    /// [`Error::InterfaceExists`] where another interface has the name.
    pub fn find(&mut self, key: &AttachmentKey) -> Result<Option<PodLink>, Error> {
        let Some(found) = link::by_name(&mut self.route, &key.ifname)? else {
            return Ok(None);
        };
        match (found.mac, found.kind.as_deref(), found.peer) {
            (mac, Some("veth"), Some(peer)) if mac == Some(key.macs().0) => Ok(Some(PodLink {
                pod_ifindex: found.index,
                host_ifindex: peer,
            })),
            _ => Err(Error::InterfaceExists { name: found.name }),
        }
    }

    /// The families in which another interface of the pod has its default route.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn others_defaults(&mut self, pod_ifindex: u32) -> Result<BTreeSet<Family>, Error> {
        let routes = route::list(&mut self.route)?;
        let ours = routes.ours.iter().map(|route| {
            let ifindex = match route.kind {
                RouteKind::Link { ifindex } | RouteKind::Via { ifindex, .. } => Some(ifindex),
                RouteKind::Unreachable => Some(pod_ifindex),
            };
            (route.table, route.dst, ifindex)
        });
        // One with several ways names no single interface.
        let others = routes.foreign.iter().filter(|route| route.is_unicast());
        let all = ours.chain(others.map(|route| (route.table, route.dst, route.ifindex)));
        let defaults = all.filter(|(table, dst, ifindex)| {
            *table == MAIN_TABLE && dst.prefix_len() == 0 && *ifindex != Some(pod_ifindex)
        });
        Ok(defaults.map(|(_, dst, _)| Family::of(dst.addr())).collect())
    }

    /// Creates the veth pair: pod end here, down, and the host end in the node's namespace. A pair from an earlier
    /// attempt with the same key is taken over; a stale host end of the same name is moved out of the way.
    ///
    /// # Errors
    /// [`Error::InterfaceExists`]; [`Error::HostNetns`]; the kernel's reason.
    pub fn create(
        &mut self,
        kernel: &mut Kernel,
        key: &AttachmentKey,
        mtu: u32,
    ) -> Result<PodLink, Error> {
        if self.netns.id() == kernel.netns.id() {
            return Err(Error::HostNetns {
                subject: self.netns.id().to_string(),
            });
        }
        let first = match self.make(kernel, key, mtu) {
            Err(error) if error.is_existing() => error,
            outcome => return outcome,
        };
        // Which of the two names is taken, and by whom?
        if let Some(found) = self.find(key)? {
            return Ok(found);
        }
        let host_name = key.host_ifname();
        match link::by_name(&mut kernel.route, &host_name.0)? {
            Some(stale) if stale.mac == Some(key.macs().1) => {
                let requests = vec![
                    link::set_down_in_group(stale.index, DOOMED_LINK_GROUP),
                    link::rename(stale.index, &doomed_name(stale.index)),
                ];
                points::ADD_DOOM_STALE.around(|| kernel.route.batch(requests))?;
                self.make(kernel, key, mtu)
            }
            _ => Err(first),
        }
    }

    fn make(&mut self, kernel: &Kernel, key: &AttachmentKey, mtu: u32) -> Result<PodLink, Error> {
        let (mac, peer_mac) = key.macs();
        let peer_name = key.host_ifname();
        let veth = Veth {
            name: &key.ifname,
            mac,
            peer_name: &peer_name.0,
            peer_mac,
            peer_group: POD_LINK_GROUP,
            mtu,
        };
        let netns = std::os::fd::AsFd::as_fd(&kernel.netns);
        let (pod_ifindex, host_ifindex) =
            points::ADD_CREATE_LINK.around(|| link::create_veth(&mut self.route, &veth, netns))?;
        Ok(PodLink {
            pod_ifindex,
            host_ifindex,
        })
    }

    /// Configures both sides and returns when packets can flow: the host end's settings, source elements, link,
    /// neighbours, routes; then the pod's settings, link, routes, neighbours, addresses. Nothing passes before the pod's
    /// end is up. Routes of ours that an earlier owner of the address left are removed.
    ///
    /// # Errors
    /// [`Error::NotReady`]; [`Error::Diverted`] where somebody else's rule or route takes the pod's packets; the
    /// kernel's reason. What was done stays: detach the pod, or configure it again.
    pub fn configure(
        &mut self,
        kernel: &mut Kernel,
        link: PodLink,
        key: &AttachmentKey,
        state: &EndpointState,
    ) -> Result<(), Error> {
        points::ADD_HOST_SETTINGS
            .around(|| state.sysctls.iter().try_for_each(write_unless_no_ipv6))?;
        let source = |(ip, mark): &(IpAddr, u32)| (link.host_ifindex, *ip, *mark);
        let sources: Vec<Source> = state.sources.iter().map(source).collect();
        points::ADD_SOURCES.around(|| nft::add_sources(&mut kernel.netfilter, &sources))?;
        let mut requests = end_up(link.host_ifindex);
        requests.extend(state.neighbours.iter().map(neigh::add));
        // One that is there may be another's; what is left of ours is found below.
        requests.extend(state.routes.iter().map(route::add_new));
        points::ADD_HOST_END.around(|| kernel.route.batch(requests))?;

        if state.pod_families.contains(&Family::V6) {
            points::ADD_POD_SETTINGS.around(|| self.netns.run(|| prepare_ipv6(&key.ifname)))??;
        }
        let mut requests = end_up(link.pod_ifindex);
        requests.extend(self.stale_rules(&key.ifname, state)?);
        requests.extend(pod_side(link.pod_ifindex, &key.ifname, state));
        points::ADD_POD_END.around(|| self.route.batch(requests))?;

        // The end that came up first can send only when the kernel's link watch has seen the carrier. Asking for the link
        // makes it look (from 6.9 on); before, it takes its time.
        let socket = &mut kernel.route;
        ready::wait(
            &kernel.netns,
            &format!("carrier of {}", state.host_ifname),
            || Ok(link::by_index(socket, link.host_ifindex)?.is_some_and(|link| link.running)),
        )?;
        recycle::verify(kernel, state)
    }

    /// Rules that an earlier attachment of this name or address left in the pod.
    fn stale_rules(&mut self, ifname: &str, state: &EndpointState) -> Result<Vec<Request>, Error> {
        if state.own_table.is_unused() {
            return Ok(Vec::new());
        }
        let wanted = pod_rules(ifname, state);
        let rules = rule::list(&mut self.route)?.ours;
        let ours = |rule: &&Rule| rule.priority == PRIORITY_POD_OWN_TABLE;
        // The rule of the interface tells the table, and that the other rules.
        let named = |rule: &&Rule| rule.selector == Selector::Oif(ifname.to_owned());
        let named = rules.iter().filter(ours).filter(named);
        let tables: BTreeSet<RuleAction> = named.map(|rule| rule.action.clone()).collect();
        let selected = |rule: &Rule| wanted.iter().any(|w| w.selector == rule.selector);
        let stale = |rule: &&Rule| {
            (tables.contains(&rule.action) || selected(rule)) && !wanted.contains(rule)
        };
        let stale = rules.iter().filter(ours).filter(stale);
        Ok(stale.map(rule::del).collect())
    }

    /// Removal of the rules that ask this table.
    fn rules_to(&mut self, own: &OwnTable) -> Result<Vec<Request>, Error> {
        if own.is_unused() {
            return Ok(Vec::new());
        }
        let asks = |rule: &&Rule| rule.action == RuleAction::Lookup(own.table);
        let rules = rule::list(&mut self.route)?.ours;
        let rules = rules.iter().filter(asks);
        Ok(rules
            .map(|rule| rule::del(rule).tolerate(Errno::NOENT))
            .collect())
    }

    /// Sets the interface down and renames it, so that its name is free; its own table's rules go. Absent, or another's:
    /// left alone.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn release_name(&mut self, ifname: &str, mac: Mac, own: &OwnTable) -> Result<(), Error> {
        let found = link::by_name(&mut self.route, ifname)?.filter(|found| found.mac == Some(mac));
        // They outlive an interface that went with its other end.
        let mut requests = self.rules_to(own)?;
        if let Some(found) = found {
            requests.extend([
                link::set_up(found.index, false),
                link::rename(found.index, &doomed_name(found.index)),
            ]);
        }
        if requests.is_empty() {
            return Ok(());
        }
        tolerate_missing(points::DEL_FREE_NAME.around(|| self.route.batch(requests)))
    }
}

/// [`PodSide::create`], the caller's `desired` with the host index, then [`PodSide::configure`].
///
/// # Errors
/// As those two. A failure may leave the link behind: [`detach_pod`].
pub fn create_pod(
    kernel: &mut Kernel,
    netns: &Netns,
    key: &AttachmentKey,
    mtu: u32,
    desired: impl FnOnce(u32) -> EndpointState,
) -> Result<(PodLink, EndpointState), Error> {
    let mut pod = PodSide::open(netns)?;
    let link = pod.create(kernel, key, mtu)?;
    let state = desired(link.host_ifindex);
    pod.configure(kernel, link, key, &state)?;
    Ok((link, state))
}

/// The synchronous part of DEL: source elements, routes, neighbours gone; host end down and doomed; the pod's interface
/// name free (where its namespace still exists). Nothing there is success. A link of that name that is not the key's is
/// left alone. `host_ifindex` is the index that the journal holds: the link itself may have gone with the namespace; `own`
/// is the table that the attachment has for itself in the pod.
///
/// Routes and neighbour entries go with the host end's going down; connections are for
/// [`crate::conntrack::delete_addresses`], later.
///
/// # Errors
/// The kernel's reason, of the first step that failed; the other steps were done.
pub fn detach_pod(
    kernel: &mut Kernel,
    netns: Option<&Netns>,
    key: &AttachmentKey,
    host_ifindex: Option<u32>,
    ips: &[IpAddr],
    own: &OwnTable,
) -> Result<(), Error> {
    let (pod_mac, host_mac) = key.macs();
    let found = link::by_name(&mut kernel.route, &key.host_ifname().0)?
        .filter(|found| found.mac == Some(host_mac));
    let found = found.map(|link| link.index);

    let mut indices = vec![found, host_ifindex];
    indices.dedup();
    let of = |index: u32| ips.iter().map(move |ip| (index, *ip, 0));
    let sources: Vec<Source> = indices.into_iter().flatten().flat_map(of).collect();
    let silenced = points::DEL_SOURCES.around(|| nft::del_sources(&mut kernel.netfilter, &sources));

    let doomed = found.map_or(Ok(()), |index| {
        let doom = link::set_down_in_group(index, DOOMED_LINK_GROUP);
        tolerate_missing(points::DEL_DOOM_LINK.around(|| kernel.route.request(doom)))
    });
    let released = netns.map_or(Ok(()), |netns| {
        PodSide::open(netns)?.release_name(&key.ifname, pod_mac, own)
    });
    silenced.and(doomed).and(released)
}

/// Deletes all doomed links at the cost of one (some 16 ms of RCU grace periods); returns how many there were.
///
/// # Errors
/// The kernel's reason.
pub fn reap_doomed(kernel: &mut Kernel) -> Result<usize, Error> {
    let mut doomed = link::list(&mut kernel.route)?;
    doomed.retain(|link| link.group == DOOMED_LINK_GROUP);
    if !doomed.is_empty() {
        let delete = link::delete_group(DOOMED_LINK_GROUP);
        tolerate_missing(points::REAP_DELETE_LINKS.around(|| kernel.route.request(delete)))?;
    }
    Ok(doomed.len())
}

/// Host ends of pod links, those of doomed pods included.
///
/// # Errors
/// The kernel's reason.
pub fn pod_links(kernel: &mut Kernel) -> Result<Vec<Link>, Error> {
    let mut links = link::list(&mut kernel.route)?;
    links.retain(is_host_end);
    Ok(links)
}

/// A link's name when its own must be free.
fn doomed_name(index: u32) -> String {
    format!("tmd{index}")
}

/// Sets one end up, without an address of the kernel's invention.
fn end_up(ifindex: u32) -> Vec<Request> {
    vec![
        link::set_addrgenmode_none(ifindex),
        link::set_up(ifindex, true),
    ]
}

/// What the pod's namespace gets once its end is up. The IPv4 address comes first: without one the kernel takes no IPv4
/// router. IPv6 ones come last: each sets off work in the kernel that contends with whatever follows.
fn pod_side(ifindex: u32, ifname: &str, state: &EndpointState) -> Vec<Request> {
    let address = |ip: &&ipnet::IpNet| addr::add(&Address { ifindex, ip: **ip });
    let (v4, v6): (Vec<_>, Vec<_>) = state
        .pod_addresses
        .iter()
        .partition(|net| net.addr().is_ipv4());
    let mut requests: Vec<_> = v4.iter().map(address).collect();
    requests.extend(pod_routes(ifindex, state).iter().map(route::add));
    let rules = pod_rules(ifname, state);
    requests.extend(
        rules
            .iter()
            .map(|rule| rule::add(rule).tolerate(Errno::EXIST)),
    );
    requests.extend(pod_neighbours(ifindex, state).iter().map(neigh::add));
    // The kernel's own comes from a work queue, milliseconds after the address: what arrives before would be lost.
    requests.extend(v6.iter().map(|net| route::add_local(net.addr(), ifindex)));
    requests.extend(v6.iter().map(address));
    requests
}

/// Routes in the pod, in the order in which they must be made.
fn pod_routes(ifindex: u32, state: &EndpointState) -> Vec<Route> {
    let mut routes = Vec::new();
    for family in &state.pod_families {
        let gateway = gateway(*family);
        let metric = if *family == Family::V4 {
            0
        } else {
            ROUTE_METRIC
        };
        let own = &state.own_table;
        let table = if own.families.contains(family) {
            own.table
        } else {
            MAIN_TABLE
        };
        let mut add = |dst, kind| {
            routes.push(Route {
                table,
                dst,
                kind,
                metric,
            })
        };
        if *family == Family::V4 {
            add(gateway.into(), RouteKind::Link { ifindex });
        }
        add(any(*family), RouteKind::Via { gateway, ifindex });
    }
    routes
}

/// Rules in the pod: none, as long as the pod's default route is ours.
fn pod_rules(ifname: &str, state: &EndpointState) -> Vec<Rule> {
    let own = &state.own_table;
    let mut rules = Vec::new();
    for family in &own.families {
        let addresses = state.routes.iter().map(|route| route.dst);
        let ours = addresses.filter(|dst| Family::of(dst.addr()) == *family);
        let from = ours.map(Selector::From);
        rules.extend(
            from.chain([Selector::Oif(ifname.to_owned())])
                .map(|selector| Rule {
                    family: *family,
                    priority: PRIORITY_POD_OWN_TABLE,
                    selector,
                    action: RuleAction::Lookup(own.table),
                }),
        );
    }
    rules
}

/// Neighbour entries in the pod: the gateways.
fn pod_neighbours(ifindex: u32, state: &EndpointState) -> Vec<Neighbour> {
    let entry = |family: &Family| Neighbour {
        ifindex,
        ip: gateway(*family),
        mac: state.macs.1,
    };
    state.pod_families.iter().map(entry).collect()
}

const fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(POD_GATEWAY4),
        Family::V6 => IpAddr::V6(POD_GATEWAY6),
    }
}

fn any(family: Family) -> ipnet::IpNet {
    match family {
        Family::V4 => ipnet::Ipv4Net::default().into(),
        Family::V6 => ipnet::Ipv6Net::default().into(),
    }
}

/// In the pod's namespace: IPv6 on, whatever the runtime's defaults; no router advertisements, so that the interface
/// does not solicit them either.
fn prepare_ipv6(ifname: &str) -> Result<(), Error> {
    let setting = |name, value: &str| Sysctl {
        path: format!("ipv6/conf/{ifname}/{name}"),
        value: value.to_owned(),
    };
    let disabled = setting("disable_ipv6", "0");
    if sysctl::read(&disabled.path)? != disabled.value {
        sysctl::write(&disabled)?;
    }
    sysctl::write(&setting("accept_ra", "0"))
}

/// A kernel without IPv6 has none of its settings, and needs none.
fn write_unless_no_ipv6(setting: &Sysctl) -> Result<(), Error> {
    match sysctl::write(setting) {
        Err(error) if error.is_missing() && setting.path.starts_with("ipv6/") => {
            match sysctl::read("ipv6/ip6frag_time") {
                Err(probe) if probe.is_missing() => Ok(()),
                _ => Err(error),
            }
        }
        outcome => outcome,
    }
}

fn tolerate_missing(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => Ok(()),
        outcome => outcome,
    }
}
