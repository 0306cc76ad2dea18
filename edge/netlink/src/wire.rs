//! One pod: create its link, configure both sides, check it, detach it.
//!
//! ```text
//!   PodSide::open ─▶ create ─▶ (core: desired::endpoint with the host index) ─▶ configure        ADD
//!   detach (synchronous: name free, routes and sources gone) ─▶ reap_doomed (background, batched) DEL
//! ```
//! Every step may be repeated.

use std::net::IpAddr;

use tombolo_core::datapath::EndpointState;
use tombolo_core::types::{AttachmentKey, Mac};

use crate::link::Link;
use crate::{Error, Kernel, Netns, Socket};

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
    pub fn open(_netns: &'a Netns) -> Result<Self, Error> {
        todo!()
    }

    /// The link that an earlier [`PodSide::create`] made for this key, if it is there. Another interface of the same
    /// name is [`Error::InterfaceExists`].
    pub fn find(&mut self, _key: &AttachmentKey) -> Result<Option<PodLink>, Error> {
        todo!()
    }

    /// Creates the veth pair: pod end here, host end in the node's namespace, both down. A pair from an earlier attempt
    /// with the same key is taken over; a stale host end of the same name is moved out of the way.
    pub fn create(&mut self, _kernel: &mut Kernel, _key: &AttachmentKey, _mtu: u32) -> Result<PodLink, Error> {
        todo!()
    }

    /// Configures both sides and returns when packets can flow: host end settings, up, neighbours, routes, source
    /// elements; then the pod's addresses, gateway, neighbours and settings.
    pub fn configure(
        &mut self,
        _kernel: &mut Kernel,
        _link: PodLink,
        _key: &AttachmentKey,
        _state: &EndpointState,
    ) -> Result<(), Error> {
        todo!()
    }

    /// What of the pod's side differs from what ADD made, in words for the CHECK error; empty: all is well.
    pub fn check(&mut self, _key: &AttachmentKey, _state: &EndpointState) -> Result<Vec<String>, Error> {
        todo!()
    }

    /// Sets the interface down and renames it, so that its name is free. Absent, or not `mac`'s: nothing to do.
    pub fn release_name(&mut self, _ifname: &str, _mac: Mac) -> Result<(), Error> {
        todo!()
    }
}

/// [`PodSide::create`], the caller's `desired` with the host index, then [`PodSide::configure`].
pub fn create_pod(
    _kernel: &mut Kernel,
    _netns: &Netns,
    _key: &AttachmentKey,
    _mtu: u32,
    _desired: impl FnOnce(u32) -> EndpointState,
) -> Result<(PodLink, EndpointState), Error> {
    todo!()
}

/// The synchronous part of DEL: source elements, routes, neighbours gone; host end down and doomed; the pod's interface
/// name free (where its namespace still exists). Nothing there is success. `host_ifindex` is verified against the key
/// before it is touched. Conntrack entries of the addresses are deleted too.
pub fn detach_pod(
    _kernel: &mut Kernel,
    _netns: Option<&Netns>,
    _key: &AttachmentKey,
    _ips: &[IpAddr],
) -> Result<(), Error> {
    todo!()
}

/// Deletes all doomed links at the cost of one (some 16 ms of RCU grace periods); returns how many there were.
pub fn reap_doomed(_kernel: &mut Kernel) -> Result<usize, Error> {
    todo!()
}

/// Differences of the host side, in words for the CHECK error.
pub fn check_host(_kernel: &mut Kernel, _host_ifindex: u32, _state: &EndpointState) -> Result<Vec<String>, Error> {
    todo!()
}

/// Pod links on the node (both groups).
pub fn pod_links(_kernel: &mut Kernel) -> Result<Vec<Link>, Error> {
    todo!()
}
