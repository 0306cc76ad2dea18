//! Which NetworkProfile a node uses, and whether it is sound. Pure.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tombolo_api::{
    IpFamilies, NetworkProfile, NetworkProfileSpec, ResolvedProfile, SubnetSelector,
};
use tombolo_cloud_sim::wire::Subnet;

/// Name of the built-in profile, in force where none selects the node.
pub const DEFAULT: &str = "default";

/// Least MTU in bytes of IPv4 (RFC 791) and of IPv6 (RFC 8200).
const MIN_MTU: u32 = 576;
const MIN_MTU_OF_IPV6: u32 = 1280;
/// Greatest MTU in bytes of the clouds that we know.
const MAX_MTU: u32 = 9500;
/// Most security groups a NIC takes.
const MAX_GROUPS: usize = 16;
/// Longest wait of an ADD in seconds: runtimes give up after two minutes.
const MAX_WAIT: u32 = 100;
/// Longest rest of an address in seconds.
const MAX_COOLING: u32 = 3600;

/// A profile that cannot be used. Nothing is changed on its nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NetworkProfile {profile}: {field} {value} {problem}")]
pub struct InvalidProfile {
    /// Its name.
    pub profile: String,
    /// The field at fault.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A profile as it applies to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub resolved: ResolvedProfile,
    pub subnets: SubnetSelector,
    pub security_groups: Vec<String>,
}

/// The profile of a node with these labels: of those that select it the highest priority wins, then the name that sorts
/// first; the built-in one where none does.
///
/// # Errors
/// The profile that applies is invalid. The next best is not taken instead: that would hide the mistake.
pub fn choose<'a>(
    profiles: impl IntoIterator<Item = &'a NetworkProfile>,
    labels: &BTreeMap<String, String>,
) -> Result<Chosen, InvalidProfile> {
    let selects = |profile: &&NetworkProfile| {
        profile
            .spec
            .node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let name = |profile: &NetworkProfile| profile.metadata.name.clone().unwrap_or_default();
    let best = profiles.into_iter().filter(selects).min_by(|a, b| {
        b.spec
            .priority
            .cmp(&a.spec.priority)
            .then_with(|| name(a).cmp(&name(b)))
    });
    match best {
        Some(profile) => {
            validate(&name(profile), &profile.spec)?;
            Ok(resolve(&name(profile), &profile.spec))
        }
        None => Ok(resolve(DEFAULT, &built_in())),
    }
}

/// The profile of a node whose Node object is gone: what was resolved last, and where that profile still exists, its
/// placement.
pub fn keep(resolved: &ResolvedProfile, profile: Option<&NetworkProfile>) -> Chosen {
    let (subnets, security_groups) = match profile {
        Some(profile) if validate(&resolved.name, &profile.spec).is_ok() => (
            profile.spec.subnets.clone(),
            profile.spec.security_groups.clone(),
        ),
        _ => (SubnetSelector::default(), Vec::new()),
    };
    Chosen {
        resolved: resolved.clone(),
        subnets,
        security_groups,
    }
}

fn built_in() -> NetworkProfileSpec {
    NetworkProfileSpec {
        node_selector: BTreeMap::new(),
        priority: 0,
        addressing: Default::default(),
        attachment: Default::default(),
        transport: Default::default(),
        ip_families: Default::default(),
        pool: Default::default(),
        mtu: None,
        snat: Default::default(),
        subnets: SubnetSelector::default(),
        security_groups: Vec::new(),
    }
}

fn resolve(name: &str, spec: &NetworkProfileSpec) -> Chosen {
    Chosen {
        resolved: ResolvedProfile {
            name: name.to_owned(),
            ip_families: spec.ip_families,
            pool: spec.pool.clone(),
            mtu: spec.mtu,
            snat: spec.snat.enabled,
            snat_exclude: spec.snat.exclude.clone(),
        },
        subnets: spec.subnets.clone(),
        security_groups: spec.security_groups.clone(),
    }
}

/// Checks a profile.
///
/// # Errors
/// Names the first field at fault.
pub fn validate(name: &str, spec: &NetworkProfileSpec) -> Result<(), InvalidProfile> {
    let invalid = |field: &str, value: String, problem| InvalidProfile {
        profile: name.to_owned(),
        field: format!("spec.{field}"),
        value,
        problem,
    };
    let pool = &spec.pool;
    if pool.warm_min > pool.warm_max {
        let problem = "is above spec.pool.warmMax";
        return Err(invalid("pool.warmMin", pool.warm_min.to_string(), problem));
    }
    if pool.warm_max > 10_000 {
        return Err(invalid(
            "pool.warmMax",
            pool.warm_max.to_string(),
            "is above 10000",
        ));
    }
    if pool.cooling_seconds > MAX_COOLING {
        return Err(invalid(
            "pool.coolingSeconds",
            pool.cooling_seconds.to_string(),
            "is above 3600",
        ));
    }
    if pool.wait_seconds > MAX_WAIT {
        let problem = "is above 100: runtimes give up after two minutes";
        return Err(invalid(
            "pool.waitSeconds",
            pool.wait_seconds.to_string(),
            problem,
        ));
    }
    let (least, problem) = match spec.ip_families {
        IpFamilies::IPv4 => (MIN_MTU, "is not within 576..=9500"),
        _ => (
            MIN_MTU_OF_IPV6,
            "is not within 1280..=9500 (RFC 8200 where pods have IPv6)",
        ),
    };
    if let Some(mtu) = spec.mtu.filter(|mtu| !(least..=MAX_MTU).contains(mtu)) {
        return Err(invalid("mtu", mtu.to_string(), problem));
    }
    for (index, range) in spec.snat.exclude.iter().enumerate() {
        if matches!(range, IpNet::V6(_)) {
            let problem = "is IPv6, which is never translated";
            return Err(invalid(
                &format!("snat.exclude[{index}]"),
                range.to_string(),
                problem,
            ));
        }
    }
    if !spec.snat.enabled && !spec.snat.exclude.is_empty() {
        let problem = "excludes from a translation that spec.snat.enabled turns off";
        return Err(invalid(
            "snat.exclude",
            format!("({} ranges)", spec.snat.exclude.len()),
            problem,
        ));
    }
    let subnets = &spec.subnets;
    if !subnets.ids.is_empty() && !subnets.tags.is_empty() {
        let problem = "is given beside spec.subnets.ids: one of the two is wanted";
        return Err(invalid(
            "subnets.tags",
            format!("({} tags)", subnets.tags.len()),
            problem,
        ));
    }
    if let Some(index) = subnets.ids.iter().position(String::is_empty) {
        return Err(invalid(
            &format!("subnets.ids[{index}]"),
            "\"\"".to_owned(),
            "is empty",
        ));
    }
    if let Some(index) = spec.security_groups.iter().position(String::is_empty) {
        return Err(invalid(
            &format!("securityGroups[{index}]"),
            "\"\"".to_owned(),
            "is empty",
        ));
    }
    if spec.security_groups.len() > MAX_GROUPS {
        let problem = "are more than 16";
        return Err(invalid(
            "securityGroups",
            format!("({} groups)", spec.security_groups.len()),
            problem,
        ));
    }
    if spec.node_selector.keys().any(String::is_empty) {
        return Err(invalid(
            "nodeSelector",
            "\"\"".to_owned(),
            "is an empty label name",
        ));
    }
    Ok(())
}

/// Whether new NICs of a node in `zone` may be in this subnet; `primary` is the subnet of the node's primary NIC.
pub fn selects_subnet(
    selector: &SubnetSelector,
    subnet: &Subnet,
    zone: &str,
    primary: Option<&str>,
) -> bool {
    if subnet.zone != zone {
        return false;
    }
    if !selector.ids.is_empty() {
        return selector.ids.contains(&subnet.id);
    }
    if !selector.tags.is_empty() {
        return selector
            .tags
            .iter()
            .all(|(key, value)| subnet.tags.get(key) == Some(value));
    }
    primary == Some(subnet.id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::samples;
    use serde_json::json;

    fn profile(name: &str, spec: serde_json::Value) -> NetworkProfile {
        NetworkProfile::new(name, serde_json::from_value(spec).unwrap())
    }

    /// deploy/profile is for people to read and to change: it says all, and what is built in.
    #[test]
    fn the_profile_in_deploy_is_the_built_in_one() {
        let manifest = include_str!("../../../deploy/profile/default.yaml");
        let written: NetworkProfile = serde_norway::from_str(manifest).unwrap();
        assert_eq!(written.metadata.name.as_deref(), Some(DEFAULT));
        assert_eq!(written.spec, built_in());
        let all = serde_json::to_value(built_in()).unwrap();
        for field in all.as_object().unwrap().keys() {
            assert!(manifest.contains(&format!("\n  {field}:")), "{field}");
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn priority_then_name_decides_and_none_means_the_built_in_one() {
        let profiles = [
            profile("b", json!({"nodeSelector": {"pool": "x"}, "priority": 5})),
            profile("a", json!({"nodeSelector": {"pool": "x"}, "priority": 5})),
            profile(
                "c",
                json!({"nodeSelector": {"pool": "x", "zone": "z"}, "priority": 9}),
            ),
            profile("d", json!({"nodeSelector": {"pool": "y"}})),
        ];
        let chosen =
            |pairs: &[(&str, &str)]| choose(&profiles, &labels(pairs)).unwrap().resolved.name;
        assert_eq!(chosen(&[("pool", "x")]), "a");
        assert_eq!(chosen(&[("pool", "x"), ("zone", "z")]), "c");
        assert_eq!(chosen(&[("pool", "y")]), "d");
        assert_eq!(chosen(&[]), DEFAULT);
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (spec, field) in [
            (
                json!({"pool": {"warmMin": 5, "warmMax": 4}}),
                "spec.pool.warmMin",
            ),
            (json!({"pool": {"warmMax": 10001}}), "spec.pool.warmMax"),
            (
                json!({"pool": {"coolingSeconds": 3601}}),
                "spec.pool.coolingSeconds",
            ),
            (
                json!({"pool": {"waitSeconds": 101}}),
                "spec.pool.waitSeconds",
            ),
            (json!({"mtu": 1279}), "spec.mtu"),
            (json!({"mtu": 9501}), "spec.mtu"),
            (json!({"mtu": 575, "ipFamilies": "IPv4"}), "spec.mtu"),
            (
                json!({"snat": {"exclude": ["10.1.0.0/16", "fd00::/8"]}}),
                "spec.snat.exclude[1]",
            ),
            (
                json!({"snat": {"enabled": false, "exclude": ["10.1.0.0/16"]}}),
                "spec.snat.exclude",
            ),
            (
                json!({"subnets": {"ids": ["s"], "tags": {"a": "b"}}}),
                "spec.subnets.tags",
            ),
            (
                json!({"subnets": {"ids": ["s", ""]}}),
                "spec.subnets.ids[1]",
            ),
            (json!({"securityGroups": [""]}), "spec.securityGroups[0]"),
            (
                json!({"securityGroups": vec!["sg"; 17]}),
                "spec.securityGroups",
            ),
            (json!({"nodeSelector": {"": "x"}}), "spec.nodeSelector"),
        ] {
            let profiles = [profile("p", spec)];
            let error = validate("p", &profiles[0].spec).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            if field != "spec.nodeSelector" {
                assert_eq!(choose(&profiles, &BTreeMap::new()), Err(error));
            }
        }
        assert_eq!(validate("default", &built_in()), Ok(()));
    }

    /// Rules of a definition, each with the place of the object that it is about.
    fn rules(schema: &serde_json::Value, at: &str, found: &mut Vec<(String, String)>) {
        let own = schema["x-kubernetes-validations"].as_array();
        for rule in own.into_iter().flatten() {
            found.push((at.to_owned(), rule["rule"].as_str().unwrap().to_owned()));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            rules(field, &format!("{at}/{name}"), found);
        }
    }

    /// Newer API servers refuse by the definition's CEL rules what 1.20 leaves to us.
    #[test]
    fn the_rules_of_the_definition_say_what_we_say() {
        let crd = include_str!("../../../deploy/crds/networkprofiles.yaml");
        let crd: serde_json::Value = serde_norway::from_str(crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut all = Vec::new();
        rules(&schema["properties"]["spec"], "", &mut all);
        let mut broken = std::collections::BTreeSet::new();
        for spec in [
            json!({}),
            json!({"pool": {"warmMin": 5, "warmMax": 4}}),
            json!({"pool": {"warmMax": 2}}),
            json!({"pool": {"warmMin": 4, "warmMax": 4}}),
            json!({"mtu": 1279}),
            json!({"mtu": 1280}),
            json!({"mtu": 1279, "ipFamilies": "IPv4"}),
            json!({"mtu": 1279, "ipFamilies": "IPv6"}),
            json!({"snat": {"enabled": false, "exclude": ["10.1.0.0/16"]}}),
            json!({"snat": {"enabled": false}}),
            json!({"snat": {"exclude": ["10.1.0.0/16"]}}),
            json!({"subnets": {"ids": ["s"], "tags": {"a": "b"}}}),
            json!({"subnets": {"tags": {"a": "b"}}}),
            json!({"nodeSelector": {"": "x"}}),
            json!({"nodeSelector": {"a": "x"}}),
        ] {
            let profile = profile("p", spec.clone());
            // The server fills in the defaults before it asks.
            let whole = serde_json::to_value(&profile.spec).unwrap();
            let mut holds = true;
            for (at, rule) in &all {
                let Some(of) = whole.pointer(at) else {
                    continue;
                };
                let mut context = cel::Context::default();
                context.add_variable("self", of).unwrap();
                let said = cel::Program::compile(rule).unwrap().execute(&context);
                let said = said.unwrap() == cel::Value::Bool(true);
                if !said {
                    broken.insert(rule.clone());
                }
                holds &= said;
            }
            let ours = validate("p", &profile.spec);
            assert_eq!(holds, ours.is_ok(), "{spec}: {ours:?}");
        }
        assert_eq!(broken.len(), all.len(), "each is broken by a case: {all:?}");
    }

    #[test]
    fn an_unknown_or_wrong_word_does_not_decode() {
        for spec in [
            json!({"warmMin": 3}),
            json!({"pool": {"warm": 3}}),
            json!({"ipFamilies": "ipv4"}),
            json!({"mtu": -1}),
        ] {
            assert!(
                serde_json::from_value::<NetworkProfileSpec>(spec.clone()).is_err(),
                "{spec}"
            );
        }
    }

    #[test]
    fn subnets_by_id_by_tag_or_that_of_the_primary_nic() {
        let mut subnet = samples::subnet("s1", 10);
        subnet.tags = labels(&[("role", "pods")]);
        let selector = |ids: &[&str], tags: &[(&str, &str)]| SubnetSelector {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            tags: labels(tags),
        };
        for (selector, zone, primary, selected) in [
            (selector(&["s1"], &[]), "z1", "s9", true),
            (selector(&["s1"], &[]), "z2", "s1", false),
            (selector(&["s2"], &[]), "z1", "s1", false),
            (selector(&[], &[("role", "pods")]), "z1", "s9", true),
            (selector(&[], &[("role", "nodes")]), "z1", "s1", false),
            (selector(&[], &[]), "z1", "s1", true),
            (selector(&[], &[]), "z1", "s9", false),
        ] {
            assert_eq!(
                selects_subnet(&selector, &subnet, zone, Some(primary)),
                selected,
                "{selector:?} {zone} {primary}"
            );
        }
    }

    #[test]
    fn a_node_without_node_object_keeps_its_profile() {
        let chosen = choose(&[profile("p", json!({"mtu": 1400}))], &BTreeMap::new()).unwrap();
        let changed = profile("p", json!({"mtu": 1500, "subnets": {"ids": ["s7"]}}));
        let kept = keep(&chosen.resolved, Some(&changed));
        assert_eq!(
            (kept.resolved.mtu, kept.subnets.ids.as_slice()),
            (Some(1400), ["s7".to_owned()].as_slice())
        );
        assert_eq!(
            keep(&chosen.resolved, None).subnets,
            SubnetSelector::default()
        );
    }
}
