//! Objects and cloud as nobody writes them, through everything that the operator computes from them: reading, profile, view,
//! spec, plan. A node's agent and users can write what they like; none of it may end the operator for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use tombolo_api::{Eni, NetResourceSet, NetworkProfile, PodEndpoint, merge};
use tombolo_cloud_sim::wire::{Instance, InstanceType, NicInfo, Subnet, Vpc};
use tombolo_core::eni::{Input, Planner, PlannerConfig, ProviderId, Term};
use tombolo_core::types::{Millis, NicLimits};
use tombolo_fuzz::Target;

use super::{spec, view};
use crate::inventory::{Reading, Snapshot, samples};
use crate::objects::parse;
use crate::profile;

const WORDS: &[&str] = &[
    "kind",
    "NetworkProfile",
    "NetResourceSet",
    "Eni",
    "Node",
    "PodEndpoint",
    "spec",
    "status",
    "agent",
    "demand",
    "low",
    "high",
    "inUse",
    "releasable",
    "release",
    "ready",
    "refused",
    "observedGeneration",
    "generation",
    "deletionTimestamp",
    "providerID",
    "sim:///z1/i-1",
    "nodeSelector",
    "priority",
    "pool",
    "warmMin",
    "warmMax",
    "ipFamilies",
    "IPv6",
    "subnets",
    "ids",
    "tags",
    "secondary",
    "attachment",
    "device_index",
    "max_nics",
    "ipv4_per_nic",
    "ipv6_per_nic",
    "available4",
    "in-use",
    "attaching",
    "available",
];

#[derive(Default)]
struct Objects {
    nodes: Vec<Node>,
    profiles: Vec<NetworkProfile>,
    nrs: Vec<NetResourceSet>,
    enis: Vec<Arc<Eni>>,
}

impl Objects {
    /// Each is decoded by itself: one that cannot be takes no other with it.
    fn decode(values: &[Value]) -> Self {
        let mut all = Self::default();
        for value in values {
            let Ok(object) = serde_json::from_value::<DynamicObject>(value.clone()) else {
                continue;
            };
            let kind = object.types.clone().unwrap_or_default().kind;
            let outcome = match kind.as_str() {
                "Node" => parse(&object).map(|node| all.nodes.push(node)),
                "NetworkProfile" => parse(&object).map(|profile| all.profiles.push(profile)),
                "NetResourceSet" => parse(&object).map(|nrs| all.nrs.push(nrs)),
                "Eni" => parse(&object).map(|eni| all.enis.push(Arc::new(eni))),
                _ => parse::<PodEndpoint>(&object).map(drop),
            };
            if let Err(error) = outcome {
                assert!(!error.to_string().is_empty());
            }
        }
        all
    }
}

fn part<T: serde::de::DeserializeOwned>(cloud: &Value, name: &str) -> Option<T> {
    serde_json::from_value(cloud.get(name)?.clone()).ok()
}

fn snapshot(cloud: &Value) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let types: Vec<InstanceType> = part(cloud, "types").unwrap_or_default();
    snapshot
        .types
        .extend(types.into_iter().map(|kind| (kind.name.clone(), kind)));
    let instances: Vec<Instance> = part(cloud, "instances").unwrap_or_default();
    let nics: Vec<NicInfo> = part(cloud, "nics").unwrap_or_default();
    let reading = |nics| Reading {
        vpc: part::<Vpc>(cloud, "vpc").unwrap_or_else(|| samples::reading(vec![], vec![]).vpc),
        instances: instances.clone(),
        subnets: part::<Vec<Subnet>>(cloud, "subnets").unwrap_or_default(),
        nics,
    };
    // Whole, then without half of it, then whole again: in both directions.
    let half = nics.iter().step_by(2).cloned().collect();
    for (at, nics) in [(0, nics.clone()), (10_000, half), (20_000, nics)] {
        let begun = snapshot.writes();
        snapshot.absorb(reading(nics), begun, Millis(at), samples::TRUST);
    }
    snapshot
}

fn node(
    objects: &Objects,
    snapshot: &Snapshot,
    nrs: &NetResourceSet,
    labels: &BTreeMap<String, String>,
) {
    let name = nrs.name_any();
    let Some(cloud) = view::CloudView::of(snapshot, "demo", &name, &nrs.spec.instance_id) else {
        return;
    };
    let chosen = match profile::choose(&objects.profiles, labels) {
        Ok(chosen) => chosen,
        Err(invalid) => {
            assert!(invalid.to_string().starts_with("NetworkProfile "));
            profile::keep(&nrs.spec.profile, objects.profiles.first())
        }
    };
    let limits = cloud.limits.unwrap_or(NicLimits {
        max_nics: nrs.spec.limits.max_nics,
        ipv4_per_nic: nrs.spec.limits.ipv4_per_nic,
        ipv6_per_nic: nrs.spec.limits.ipv6_per_nic,
    });
    let marked: BTreeSet<_> = nrs.spec.release.iter().copied().collect();
    let taking: BTreeSet<_> = nrs.spec.taking.iter().copied().collect();
    let no_ids = BTreeSet::new();
    let wanted = spec::desired(
        &cloud,
        limits,
        &chosen,
        &marked,
        &taking,
        &no_ids,
        Term(nrs.spec.term),
    );
    // The patch that is written turns what is there into what is wanted.
    let value = |spec| serde_json::to_value(spec).expect("JSON");
    let change = merge::diff(&value(&nrs.spec), &value(&wanted));
    assert_eq!(change.is_none(), nrs.spec == wanted);

    let observation = view::observe(&cloud, limits, nrs, &objects.enis, &chosen, Term(1));
    let mut planner = Planner::new(&name, PlannerConfig::default());
    for now in [0, 1, u64::MAX - 1, u64::MAX] {
        let actions = planner.handle(Millis(now), Input::Observed(observation.clone()));
        let calls: Vec<_> = actions.iter().filter_map(|action| action.call()).collect();
        let distinct: BTreeSet<_> = calls.iter().collect();
        assert_eq!(
            distinct.len(),
            calls.len(),
            "one call of each kind: {actions:?}"
        );
        for call in calls {
            planner.handle(Millis(now), Input::Finished(call, Ok(())));
        }
        let _when = planner.next_deadline(Millis(now));
    }
}

/// `{"cloud": …, "objects": […]}`.
#[test]
fn objects_and_cloud() {
    Target::new("operator-objects")
        .words(WORDS)
        .runs(1000)
        .max_len(16_384)
        .check(|bytes| {
            let Ok(world) = serde_json::from_slice::<Value>(bytes) else {
                return;
            };
            let values = world.get("objects").and_then(Value::as_array);
            let objects = Objects::decode(values.map(Vec::as_slice).unwrap_or_default());
            let snapshot = snapshot(world.get("cloud").unwrap_or(&Value::Null));
            let mut labels = BTreeMap::new();
            for node in &objects.nodes {
                labels.clone_from(node.labels());
                let id = node
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.provider_id.as_deref());
                if let Some(Ok(id)) = id.map(str::parse::<ProviderId>) {
                    assert!(!id.instance.is_empty());
                }
            }
            for profile in &objects.profiles {
                drop(profile::validate("p", &profile.spec));
            }
            for nrs in &objects.nrs {
                node(&objects, &snapshot, nrs, &labels);
            }
        });
}
