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
            Op::ReplaceNat(state) => nft::install(&mut self.netfilter, state),
            Op::UpdateNat(change) => nft::update(&mut self.netfilter, &change.0, &change.1),
            _ => request(op).map_or(Ok(()), |request| {
                tolerate_gone(op, self.route.request(request))
            }),
        }
    }

    /// Carries out operations one after the other, each whatever became of those before it. What takes one request goes to the
    /// kernel together with its neighbours: there may be a route for each address of the node.
    ///
    /// # Errors
    /// One outcome an operation, as of [`Kernel::apply`].
    pub fn apply_all(&mut self, ops: &[Op]) -> Vec<Result<(), Error>> {
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(next) = rest.first() {
            let requests: Vec<Request> = rest.iter().map_while(request).collect();
            let (group, others) = rest.split_at(requests.len().max(1));
            rest = others;
            if requests.is_empty() {
                outcomes.push(self.apply(next));
                continue;
            }
            match self.route.batch_each(requests) {
                Ok(each) => {
                    let each = group.iter().zip(each);
                    outcomes.extend(each.map(|(op, outcome)| tolerate_gone(op, outcome)));
                }
                // The socket failed, not a request: each is told what becomes of it alone.
                Err(_) => outcomes.extend(group.iter().map(|op| self.apply(op))),
            }
        }
        outcomes
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

/// What rtnetlink is asked for; of operations that take more or something else, nothing.
fn request(op: &Op) -> Option<Request> {
    Some(match op {
        Op::AddAddress(address) => addr::add(address),
        Op::DelAddress(address) => addr::del(address),
        Op::AddNeighbour(neighbour) => neigh::add(neighbour),
        Op::DelNeighbour(neighbour) => neigh::del(neighbour),
        Op::AddRoute(route) => route::add(route),
        Op::DelRoute(route) => route::del(route),
        Op::AddRule(rule) => rule::add(rule).tolerate(rustix::io::Errno::EXIST),
        Op::DelRule(rule) => rule::del(rule),
        Op::SetSysctl(_) | Op::SetLink(..) | Op::ReplaceNat(_) | Op::UpdateNat(_) => return None,
    })
}

fn tolerate_gone(op: &Op, outcome: Result<(), Error>) -> Result<(), Error> {
    let removes = matches!(
        op,
        Op::DelAddress(_) | Op::DelNeighbour(_) | Op::DelRoute(_) | Op::DelRule(_)
    );
    outcome.or_else(|error| match error {
        error if removes && error.is_missing() => Ok(()),
        error => Err(error),
    })
}

/// Whether a link is the host end of a pod link, of a living pod or a doomed one.
pub(crate) fn is_host_end(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && (link.name.starts_with(HostIfName::PREFIX)
            || [POD_LINK_GROUP, DOOMED_LINK_GROUP].contains(&link.group))
}
