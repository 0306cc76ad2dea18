//! One namespace (the node's): observe all that is ours in it, apply one operation.

use std::collections::BTreeSet;

use tombolo_core::datapath::conventions::{DOOMED_LINK_GROUP, POD_LINK_GROUP};
use tombolo_core::datapath::diff::Op;
use tombolo_core::datapath::{Address, LinkState, NodeState, Sysctl};
use tombolo_core::types::HostIfName;

use crate::link::{Change, Link};
use crate::route::ForeignRoute;
use crate::rule::ForeignRule;
use crate::{Error, Netns, Request, Socket, addr, link, neigh, nft, route, rule, sysctl};

/// Sockets into the namespace in which it was opened. Sysctls follow the calling thread, which must therefore be in the
/// same namespace.
#[derive(Debug)]
pub struct Kernel {
    /// rtnetlink.
    pub route: Socket,
    /// nf_tables and conntrack.
    pub netfilter: Socket,
    /// The namespace.
    pub netns: Netns,
}

/// What the namespace holds.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Ours. `state.links` holds the NICs that were asked for (without group) and the host ends of all pod links (with
    /// theirs, which may be the group of the doomed).
    pub state: NodeState,
    /// Whether our nf_tables tables are there and as this build writes them; if not, `state.nat` is empty.
    pub nat_intact: bool,
    /// All links.
    pub links: Vec<Link>,
    /// Rules of others, for conflicts.
    pub foreign_rules: Vec<ForeignRule>,
    /// Routes of others in any table but the kernel's local one.
    pub foreign_routes: Vec<ForeignRoute>,
    /// Addresses of others. Where the kernel does not keep our mark, all of them.
    pub foreign_addresses: BTreeSet<Address>,
}

impl Kernel {
    /// Opens sockets into the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            route: Socket::route()?,
            netfilter: Socket::netfilter()?,
            netns: Netns::own()?,
        })
    }

    /// Port ids of the sockets: changes that carry one of them in an [`crate::events::Event`] were made here.
    #[must_use]
    pub const fn ports(&self) -> [u32; 2] {
        [self.route.port(), self.netfilter.port()]
    }

    /// Looks at everything. `sysctls`: paths to read (absent ones are left out of the result). `nics`: indices of links
    /// whose state is wanted besides that of the pods' host ends; absent ones are left out.
    ///
    /// # Errors
    /// Any of the dumps' errors.
    pub fn observe_node(
        &mut self,
        sysctls: &BTreeSet<String>,
        nics: &BTreeSet<u32>,
    ) -> Result<Observation, Error> {
        let links = link::list(&mut self.route)?;
        let rules = rule::list(&mut self.route)?;
        let routes = route::list(&mut self.route)?;
        let addresses = addr::list(&mut self.route)?;
        let nat = nft::observe(&mut self.netfilter)?;
        let mut found = BTreeSet::new();
        for path in sysctls {
            match sysctl::read(path) {
                Ok(value) => {
                    found.insert(Sysctl {
                        path: path.clone(),
                        value,
                    });
                }
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        let (own, foreign): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|found| found.ours);
        let state = |link: &Link| {
            let group = is_host_end(link).then_some(link.group);
            (nics.contains(&link.index) || group.is_some()).then(|| {
                (
                    link.index,
                    LinkState {
                        name: link.name.clone(),
                        up: link.up,
                        mtu: link.mtu,
                        group,
                    },
                )
            })
        };
        Ok(Observation {
            state: NodeState {
                rules: rules.ours,
                routes: routes.ours,
                neighbours: neigh::list_ours(&mut self.route)?,
                addresses: own.into_iter().map(|found| found.address).collect(),
                links: links.iter().filter_map(state).collect(),
                nat: nat.clone().unwrap_or_default(),
                sysctls: found,
            },
            nat_intact: nat.is_some(),
            links,
            foreign_rules: rules.foreign,
            foreign_routes: routes.foreign,
            foreign_addresses: foreign.into_iter().map(|found| found.address).collect(),
        })
    }

    /// Carries out one operation. Adding what is there, and removing what is not, succeeds.
    ///
    /// # Errors
    /// [`Error::NoInterface`] where a link to be set is gone; the kernel's reason.
    pub fn apply(&mut self, op: &Op) -> Result<(), Error> {
        match op {
            Op::SetSysctl(setting) => sysctl::write(setting),
            Op::SetLink(index, state) => self.set_link(*index, state),
            Op::AddAddress(address) => self.route.request(addr::add(address)),
            Op::DelAddress(address) => self.remove(addr::del(address)),
            Op::AddNeighbour(neighbour) => self.route.request(neigh::add(neighbour)),
            Op::DelNeighbour(neighbour) => self.remove(neigh::del(neighbour)),
            Op::AddRoute(route) => self.route.request(route::add(route)),
            Op::DelRoute(route) => self.remove(route::del(route)),
            Op::AddRule(rule) => self
                .route
                .request(rule::add(rule).tolerate(rustix::io::Errno::EXIST)),
            Op::DelRule(rule) => self.remove(rule::del(rule)),
            Op::ReplaceNat(state) => nft::install(&mut self.netfilter, state),
            Op::UpdateNat(change) => nft::update(&mut self.netfilter, &change.0, &change.1),
        }
    }

    /// Carries out operations one after the other, each whatever became of those before it. Routes go to the kernel together:
    /// there is one for each address of the node.
    ///
    /// # Errors
    /// One outcome an operation, as of [`Kernel::apply`].
    pub fn apply_all(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let request = |op: &Op| match op {
            Op::AddRoute(route) => Some(route::add(route)),
            Op::DelRoute(route) => Some(route::del(route)),
            _ => None,
        };
        let mut outcomes = Vec::with_capacity(ops.len());
        for group in ops.chunk_by(|one, next| is_route(one) && is_route(next)) {
            let requests: Vec<Request> = group.iter().filter_map(request).collect();
            if requests.is_empty() {
                outcomes.extend(group.iter().map(|op| self.apply(op)));
                continue;
            }
            match self.route.batch_each(requests) {
                Ok(each) => outcomes.extend(group.iter().zip(each).map(|(op, outcome)| {
                    let gone = |error: &Error| matches!(op, Op::DelRoute(_)) && error.is_missing();
                    outcome.or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })
                })),
                // The socket failed, not a request: each is told what becomes of it alone.
                Err(_) => outcomes.extend(group.iter().map(|op| self.apply(op))),
            }
        }
        outcomes
    }

    fn remove(&mut self, request: Request) -> Result<(), Error> {
        match self.route.request(request) {
            Err(error) if error.is_missing() => Ok(()),
            outcome => outcome,
        }
    }

    fn set_link(&mut self, index: u32, state: &LinkState) -> Result<(), Error> {
        let missing = || Error::NoInterface {
            name: format!("{} (index {index})", state.name),
        };
        let found = link::by_index(&mut self.route, index)?.ok_or_else(missing)?;
        let change = Change {
            // A NIC's name is its system's, which may have changed it since it was looked at.
            name: (state.group.is_some() && found.name != state.name)
                .then_some(state.name.as_str()),
            mtu: (found.mtu != state.mtu).then_some(state.mtu),
            group: state.group.filter(|group| *group != found.group),
            up: (found.up != state.up).then_some(state.up),
        };
        change
            .request(index)
            .map_or(Ok(()), |request| self.route.request(request))
    }
}

const fn is_route(op: &Op) -> bool {
    matches!(op, Op::AddRoute(_) | Op::DelRoute(_))
}

/// Whether a link is the host end of a pod link, of a living pod or a doomed one.
pub(crate) fn is_host_end(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && (link.name.starts_with(HostIfName::PREFIX)
            || [POD_LINK_GROUP, DOOMED_LINK_GROUP].contains(&link.group))
}
