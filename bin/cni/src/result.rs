//! The result object: our attachment in the shape that each CNI version demands, after what earlier plugins made.
//!
//! What earlier plugins made passes as it is, fields that we do not know included.

use serde_json::{Map, Value, json};
use tombolo_rpc::{Attachment, Route};

use crate::config::{ConfigError, Problem};
use crate::version::CniVersion;

/// Addresses of one interface that CHECK compares at most, and bytes of each: what the agent takes in one request.
const MAX_CHECKED: (usize, usize) = (64, 64);

/// `RT_SCOPE_LINK`: a route to what is on the link.
const SCOPE_LINK: u8 = 253;

/// `prevResult` of a chained ADD, with room for what we append.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    rest: Map<String, Value>,
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
}

impl Earlier {
    /// Takes `prevResult` apart, before anything is asked of the agent.
    pub fn parse(
        prev: Option<Map<String, Value>>,
        ifname: &str,
        netns: &str,
    ) -> Result<Self, ConfigError> {
        let mut rest = prev.unwrap_or_default();
        // Empty is as good as none, and some runtimes take it for a resolver without servers.
        rest.retain(|field, value| {
            field != "dns" || value.as_object().is_none_or(|v| !v.is_empty())
        });
        let mut list = |field| list(rest.remove(field), field);
        let (interfaces, ips, routes) = (list("interfaces")?, list("ips")?, list("routes")?);
        let same = |i: &Value| text(i, "name") == ifname && text(i, "sandbox") == netns;
        if let Some(index) = interfaces.iter().position(same) {
            let problem = Problem::Value {
                given: ifname.to_owned(),
                must: "is the interface that this ADD is to make",
            };
            return Err(ConfigError::field(
                format!("prevResult.interfaces[{index}].name"),
                problem,
            ));
        }
        Ok(Self {
            rest,
            interfaces,
            ips,
            routes,
        })
    }

    /// What the pod is to resolve names with, in place of what earlier plugins said.
    pub fn set_dns(&mut self, dns: Map<String, Value>) {
        self.rest.insert("dns".into(), dns.into());
    }
}

/// The addresses, with length, that `prevResult` gives to the pod's interface (for CHECK).
pub fn addresses_of(
    prev: &Map<String, Value>,
    ifname: &str,
    netns: &str,
) -> Result<Vec<String>, ConfigError> {
    let field = |name: &str| list(prev.get(name).cloned(), name);
    let (interfaces, ips) = (field("interfaces")?, field("ips")?);
    let ours = |i: &Value| {
        text(i, "name") == ifname && matches!(text(i, "sandbox"), sandbox if sandbox == netns)
    };
    let Some(index) = interfaces.iter().position(ours) else {
        let must = "is not listed with the sandbox CNI_NETNS";
        let problem = Problem::Value {
            given: ifname.to_owned(),
            must,
        };
        return Err(ConfigError::field("prevResult.interfaces", problem));
    };
    let mut addresses = Vec::new();
    for (position, ip) in ips.iter().enumerate() {
        if ip.get("interface").and_then(Value::as_u64) != Some(index as u64) {
            continue;
        }
        match ip.get("address").and_then(Value::as_str) {
            Some(address) if address.len() > MAX_CHECKED.1 || addresses.len() == MAX_CHECKED.0 => {
                let problem = Problem::Value {
                    given: address.chars().take(MAX_CHECKED.1).collect(),
                    must: "is too long, or one of more than 64",
                };
                return Err(ConfigError::field(
                    format!("prevResult.ips[{position}].address"),
                    problem,
                ));
            }
            Some(address) => addresses.push(address.to_owned()),
            None => {
                let problem = Problem::WrongType {
                    expected: "a string",
                };
                return Err(ConfigError::field(
                    format!("prevResult.ips[{position}].address"),
                    problem,
                ));
            }
        }
    }
    if addresses.is_empty() {
        let problem = Problem::Value {
            given: ifname.to_owned(),
            must: "has no address",
        };
        return Err(ConfigError::field("prevResult.ips", problem));
    }
    Ok(addresses)
}

/// The result of an ADD.
pub fn of_add(
    version: CniVersion,
    earlier: Earlier,
    made: &Attachment,
    ifname: &str,
    netns: &str,
) -> Value {
    let Earlier {
        mut rest,
        mut interfaces,
        mut ips,
        mut routes,
    } = earlier;
    let host = interface(version, &made.host_ifname, &made.host_mac, made.mtu, "");
    let pod = interface(version, ifname, &made.pod_mac, made.mtu, netns);
    interfaces
        .iter_mut()
        .for_each(|earlier| shape_interface(version, earlier));
    let pod_index = interfaces.len() + 1;
    interfaces.extend([host, pod]);

    // IPv4 first: some runtimes take the first address for the pod's main one.
    let mut addresses: Vec<_> = made.addresses.iter().collect();
    addresses.sort_by_key(|address| is_v6(&address.cidr));
    for address in addresses {
        let mut ip = json!({ "address": address.cidr, "interface": pod_index });
        if !address.gateway.is_empty() {
            ip["gateway"] = json!(address.gateway);
        }
        ips.push(ip);
    }
    for ip in &mut ips {
        shape_ip(version, ip);
    }
    for route in &made.routes {
        routes.extend(shape_route(version, route));
    }

    rest.insert("cniVersion".into(), version.text().into());
    rest.insert("interfaces".into(), interfaces.into());
    rest.insert("ips".into(), ips.into());
    if !routes.is_empty() {
        rest.insert("routes".into(), routes.into());
    }
    Value::Object(rest)
}

/// The answer to VERSION, in the asker's version where we speak it.
pub fn of_version(asked: Option<CniVersion>) -> Value {
    json!({
        "cniVersion": asked.unwrap_or(CniVersion::NEWEST).text(),
        "supportedVersions": CniVersion::ALL.map(CniVersion::text),
    })
}

fn interface(version: CniVersion, name: &str, mac: &str, mtu: u32, sandbox: &str) -> Value {
    let mut interface = json!({ "name": name, "mac": mac, "sandbox": sandbox });
    if version >= CniVersion::V1_1_0 {
        interface["mtu"] = json!(mtu);
    }
    interface
}

/// Versions before 1.0.0 know less of an interface.
fn shape_interface(version: CniVersion, interface: &mut Value) {
    if let Value::Object(interface) = interface
        && version < CniVersion::V1_0_0
    {
        for later in ["mtu", "socketPath", "pciID"] {
            interface.remove(later);
        }
    }
}

/// Versions before 1.1.0 know neither scopes nor tables: a route that is not of the pod's main table is not told of there,
/// or plugins after us would take it for the pod's.
fn shape_route(version: CniVersion, route: &Route) -> Option<Value> {
    let newest = version >= CniVersion::V1_1_0;
    if route.table != 0 && !newest {
        return None;
    }
    let mut shaped = json!({ "dst": route.dst });
    match route.gateway.as_str() {
        "" if newest => shaped["scope"] = json!(SCOPE_LINK),
        "" => {}
        gateway => shaped["gw"] = json!(gateway),
    }
    if route.table != 0 {
        shaped["table"] = json!(route.table);
    }
    Some(shaped)
}

/// Versions before 1.0.0 name the family of every address; later ones do not know the field.
fn shape_ip(version: CniVersion, ip: &mut Value) {
    let family = if is_v6(text(ip, "address")) { "6" } else { "4" };
    if let Value::Object(ip) = ip {
        if version < CniVersion::V1_0_0 {
            ip.insert("version".into(), family.into());
        } else {
            ip.remove("version");
        }
    }
}

fn is_v6(cidr: &str) -> bool {
    cidr.contains(':')
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A list of objects below `prevResult`.
fn list(value: Option<Value>, field: &str) -> Result<Vec<Value>, ConfigError> {
    let wrong =
        |field: String, expected| Err(ConfigError::field(field, Problem::WrongType { expected }));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(entries)) => match entries.iter().position(|entry| !entry.is_object()) {
            None => Ok(entries),
            Some(index) => wrong(format!("prevResult.{field}[{index}]"), "an object"),
        },
        Some(_) => wrong(format!("prevResult.{field}"), "a list"),
    }
}
