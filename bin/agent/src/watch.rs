//! Listens to the kernel and asks for a comparison when somebody else changed what is ours, or when a NIC changed.
//! What we change ourselves is recognised by the port of the socket that asked for it.

use std::sync::Arc;
use std::time::Duration;

use tombolo_core::datapath::conventions::{PRIORITY_END, PROTOCOL, is_our_table};
use tombolo_core::types::{HostIfName, Mac};
use tombolo_netlink::events::{Changed, Event, Events};
use tracing::{debug, warn};

use crate::firewall;
use crate::node::Node;

/// Longest wait for a notification; the thread looks around and waits again.
const WAIT: Duration = Duration::from_secs(3600);

/// Listens on a thread of its own as long as the process lives. `events` was opened before the first comparison, so that
/// nothing is missed in between.
pub fn start(node: Arc<Node>, events: Events) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("kernel-watch".to_owned());
    thread.spawn(move || listen(&node, events)).map(drop)
}

fn listen(node: &Node, mut events: Events) {
    loop {
        let mut concerning = change_within(node, &mut events, WAIT);
        // They come in crowds, ours with every pod and others': one look for all that came until now.
        std::thread::sleep(node.config.debounce);
        concerning |= change_within(node, &mut events, Duration::ZERO);
        if concerning {
            node.repair.notify_one();
        }
    }
}

/// Waits for notifications, not longer than this; whether one of them concerns us.
fn change_within(node: &Node, events: &mut Events, wait: Duration) -> bool {
    let read = events
        .wait(wait)
        .and_then(|there| if there { events.read() } else { Ok(Vec::new()) });
    match read {
        Ok(batch) => {
            let concerning = batch.iter().find(|event| concerns_us(node, event));
            if let Some(event) = concerning {
                debug!(?event, "somebody changed what is ours");
            }
            concerning.is_some()
        }
        Err(error) => {
            warn!(%error, "kernel notifications were lost");
            true
        }
    }
}

fn concerns_us(node: &Node, event: &Event) -> bool {
    if event.port != 0 && node.kernels.is_ours(event.port) {
        return false;
    }
    let is_nic = |ifindex: u32| {
        node.wired
            .borrow()
            .nics
            .iter()
            .any(|nic| nic.ifindex == ifindex)
    };
    let is_planned = |mac: Mac| {
        let plan = node.plan.borrow();
        plan.as_ref()
            .is_some_and(|plan| plan.nics.iter().any(|nic| nic.mac == mac))
    };
    match &event.changed {
        // The kernel itself (port 0) reports carrier, which comes and goes with every pod.
        Changed::Links { ifindex, gone, .. } if node.is_ready_link(*ifindex) => {
            *gone || event.port != 0
        }
        Changed::Links { ifindex, gone, .. } if node.orphans().contains_key(ifindex) => *gone,
        // A pod link on its way in or out.
        Changed::Links { name, .. }
            if [HostIfName::PREFIX, "tmd"]
                .iter()
                .any(|prefix| name.starts_with(prefix)) =>
        {
            false
        }
        // Of the others those that are NICs of ours or become one: the links of a node's other programs come and go.
        Changed::Links { ifindex, mac, .. } => is_nic(*ifindex) || mac.is_some_and(is_planned),
        Changed::Overrun | Changed::Nft { .. } => true,
        Changed::Addresses { ifindex, .. } => is_nic(*ifindex),
        Changed::Routes {
            table, protocol, ..
        } => *protocol == PROTOCOL || is_our_table(*table),
        // Those of the kernel lie outside: when one goes, and when one of others comes before ours.
        Changed::Rules {
            priority,
            protocol,
            gone,
            ..
        } => *protocol == PROTOCOL || *gone || (1..=PRIORITY_END).contains(priority),
        // What came on does no harm; links that come and go tell of theirs, too.
        Changed::Forwarding { on: true, .. } => false,
        Changed::Forwarding { ifindex, .. } => ifindex.is_none_or(is_nic),
        Changed::Firewall { gone: false } => true,
        Changed::Firewall { gone: true } => {
            node.wired.borrow().problems.iter().any(firewall::is_one)
        }
        // One that carries our mark and that we did not add is garbage.
        Changed::Neighbours {
            ifindex,
            ours,
            gone,
        } => node.is_ready_link(*ifindex) || *ours && !*gone,
        // A kind of event that a newer edge reports.
        _ => true,
    }
}
