//! Specifications as no operator writes them: refused with the field's name, or good all the way to the desired kernel
//! state and the pool.

use std::collections::BTreeMap;

use tombolo_core::datapath::{Endpoint, EndpointAddress, NodeInput, RouteKind, Selector, desired};
use tombolo_core::ipam::{Input, NicSupply, Pool};
use tombolo_core::types::{AttachmentKey, Family};
use tombolo_fuzz::Target;
use tombolo_netlink::link::Link;

use super::*;
use crate::join::join;

const WORDS: &[&str] = &[
    "\"instanceId\"",
    "\"profile\"",
    "\"ipFamilies\"",
    "\"IPv4\"",
    "\"IPv6\"",
    "\"DualStack\"",
    "\"pool\"",
    "\"warmMin\"",
    "\"warmMax\"",
    "\"coolingSeconds\"",
    "\"churnWindowSeconds\"",
    "\"waitSeconds\"",
    "\"mtu\"",
    "\"snat\"",
    "\"snatExclude\"",
    "\"vpcCidrs\"",
    "\"nics\"",
    "\"mac\"",
    "\"deviceIndex\"",
    "\"cidr4\"",
    "\"cidr6\"",
    "\"gateway4\"",
    "\"gateway6\"",
    "\"primary4\"",
    "\"primary6\"",
    "\"addresses\"",
    "\"release\"",
];

fn link(index: u32, mac: Mac) -> Link {
    Link {
        index,
        name: format!("eth{index}"),
        mac: Some(mac),
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        group: 0,
        alias: None,
        kind: None,
        peer: None,
        peer_netns: None,
        master: None,
    }
}

/// Everything that the kernel would be asked for is in the form in which the kernel shows it again: otherwise each
/// comparison would find a difference, for ever.
fn check_kernel(plan: &Plan) {
    let links: Vec<Link> = (2..)
        .zip(&plan.nics)
        .map(|(n, nic)| link(n, nic.mac))
        .collect();
    let nics = join(plan, &links).nics;
    assert_eq!(nics.len(), plan.nics.len());
    let endpoints = (100..)
        .zip(
            plan.nics
                .iter()
                .flat_map(|nic| nic.addresses.iter().map(move |ip| (ip, nic))),
        )
        .take(20)
        .map(|(host_ifindex, (ip, nic))| Endpoint {
            key: AttachmentKey::new("net", &format!("c{host_ifindex}"), "eth0").expect("a key"),
            host_ifindex,
            addresses: vec![EndpointAddress {
                ip: *ip,
                nic: nic.id.clone(),
            }],
            host_ports: Vec::new(),
            mtu: nic.mtu,
        })
        .collect();
    let state = desired::node(&NodeInput {
        families: plan.pool.families,
        nics,
        endpoints,
        addresses: plan.held(),
        vpc_cidrs: plan.untranslated.clone(),
        snat: plan.snat,
    });
    for route in &state.routes {
        assert_eq!(route.dst, route.dst.trunc(), "{route:?}");
        if let RouteKind::Via { gateway, .. } = route.kind {
            assert_eq!(
                Family::of(gateway),
                Family::of(route.dst.addr()),
                "{route:?}"
            );
        }
    }
    for rule in &state.rules {
        if let Selector::From(net) = &rule.selector {
            assert_eq!(*net, net.trunc(), "{rule:?}");
            assert!(net.prefix_len() > 0, "the kernel shows no source: {rule:?}");
        }
    }
    let nets: Vec<_> = state.nat.vpc4.iter().copied().collect();
    assert_eq!(Ipv4Net::aggregate(&nets).len(), nets.len());
    assert!(nets.iter().all(|net| *net == net.trunc()));
}

fn check_pool(plan: &Plan) {
    let mut pool = Pool::new(plan.pool.clone());
    let supply = plan
        .nics
        .iter()
        .map(|nic| NicSupply {
            nic: nic.id.clone(),
            usable: true,
            device_index: nic.device_index,
            addresses: nic.addresses.clone(),
        })
        .collect();
    let keys =
        [1, 2, 3].map(|n| AttachmentKey::new("net", &format!("c{n}"), "eth0").expect("a key"));
    let mut inputs = vec![Input::Marked(plan.release.clone()), Input::Supply(supply)];
    inputs.extend(keys.iter().cloned().map(Input::Reserve));
    inputs.extend(keys.iter().cloned().map(Input::Release));
    inputs.extend(keys.iter().cloned().map(Input::Removed));
    inputs.push(Input::Tick);
    let mut now = Millis(u64::MAX - 5);
    for input in inputs {
        pool.handle(now, input);
        now = now + Millis(1);
        let demand: BTreeMap<_, _> = pool.demand(now);
        assert!(demand.values().all(|demand| demand.low <= demand.high));
        drop((pool.releasable(), pool.next_deadline()));
    }
}

#[test]
fn specifications() {
    Target::new("nrs-spec").words(WORDS).check(|bytes| {
        let Ok(spec) = serde_json::from_slice::<NetResourceSetSpec>(bytes) else {
            return;
        };
        let written = serde_json::to_value(&spec).expect("JSON");
        assert_eq!(
            serde_json::from_value::<NetResourceSetSpec>(written).ok(),
            Some(spec.clone())
        );
        for max_pods in [110, u32::MAX] {
            match Plan::new(1, &spec, max_pods) {
                Err(invalid) => assert!(invalid.to_string().starts_with("spec.")),
                Ok(plan) => {
                    check_kernel(&plan);
                    check_pool(&plan);
                }
            }
        }
    });
}
