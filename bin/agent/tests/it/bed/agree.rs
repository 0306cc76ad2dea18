//! One truth on a node: journal, kernel and pool hold the same addresses. The kernel is asked by `ip` and `nft`, the journal
//! is read from its files.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use super::{Bed, ip_json};

type Addresses = BTreeSet<IpAddr>;

impl Bed {
    /// Waits until all agree on so many attachments, none of them half made; the background may still be at work.
    pub fn agree(&self, attachments: usize) {
        let started = std::time::Instant::now();
        loop {
            let disagreement = match self.disagreement(attachments) {
                None => return,
                Some(disagreement) => disagreement,
            };
            assert!(
                started.elapsed() < std::time::Duration::from_secs(30),
                "not within 30 s: {disagreement}"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn disagreement(&self, attachments: usize) -> Option<String> {
        let records = entries(&self.run_dir().join("journal"));
        if records.len() != attachments || records.iter().any(|r| r["phase"] != "ready") {
            return Some(format!("{attachments} are wanted, journal: {records:?}"));
        }
        let state = self.state();
        let known = state["attachments"].as_array().unwrap().len();
        if known != attachments || state["orphans"] != serde_json::json!([]) {
            return Some(format!("the agent knows others: {state}"));
        }
        let journal: Addresses = records
            .iter()
            .flat_map(|record| record["addresses"].as_array().unwrap())
            .map(|address| ip(&address["ip"]))
            .collect();
        let pool = |states: &[&str]| -> Addresses {
            let all = state["pool"]["addresses"].as_array().unwrap();
            all.iter()
                .filter(|address| states.contains(&address["state"].as_str().unwrap()))
                .map(|address| ip(&address["ip"]))
                .collect()
        };
        let cooling: Addresses = entries(&self.run_dir().join("cooling"))
            .iter()
            .map(|note| ip(&note["address"]["ip"]))
            .collect();
        let links = ip_json(&self.node, "link show");
        let named = |prefix: &str| {
            let all = links.as_array().unwrap().iter();
            all.filter(|link| link["ifname"].as_str().unwrap().starts_with(prefix))
                .count()
        };
        let compared = [
            ("pool: bound", pool(&["bound"]), &journal),
            ("pool: draining", pool(&["draining"]), &Addresses::new()),
            ("pool: cooling", pool(&["cooling"]), &cooling),
            ("routes", self.routed(), &journal),
            ("neighbours", self.neighbours(), &journal),
            ("nft sources", self.sources(), &journal),
        ];
        for (what, found, wanted) in compared {
            if found != *wanted {
                return Some(format!("{what}: {found:?}, journal: {wanted:?}"));
            }
        }
        if (named("tmb"), named("tmd")) != (attachments, 0) {
            return Some(format!("links: {links}"));
        }
        None
    }

    fn routed(&self) -> Addresses {
        // Not `table 990`: it is an error where no route is in it.
        let of = |family: &str| {
            let all = format!("{family} route show table all proto 116");
            ip_json(&self.node, &all)
        };
        let all = [of("-4"), of("-6")];
        let routes = all.iter().flat_map(|routes| routes.as_array().unwrap());
        routes
            .filter(|route| route["table"] == "990" && route["type"] != "unreachable")
            .map(|route| ip(&route["dst"]))
            .collect()
    }

    fn neighbours(&self) -> Addresses {
        let all = ip_json(&self.node, "neigh show nud permanent");
        let on_pod_link =
            |entry: &&Value| entry["dev"].as_str().is_some_and(|d| d.starts_with("tm"));
        let entries = all.as_array().unwrap().iter();
        entries
            .filter(on_pod_link)
            .map(|entry| ip(&entry["dst"]))
            .collect()
    }

    fn sources(&self) -> Addresses {
        let nft = self.nft();
        let objects = nft["nftables"].as_array().unwrap().iter();
        let maps = objects.filter_map(|object| object.get("map"));
        let mut found = Addresses::new();
        for map in maps.filter(|map| map["name"].as_str().unwrap().starts_with("pods")) {
            collect(&map["elem"], &mut found);
        }
        found
    }
}

/// Every text that is an address, wherever it is.
fn collect(value: &Value, found: &mut Addresses) {
    match value {
        Value::String(text) => found.extend(text.parse::<IpAddr>()),
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        Value::Object(map) => map.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn ip(value: &Value) -> IpAddr {
    let text = value.as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// The files of a directory as JSON; one that vanishes meanwhile is left out, unfinished ones count.
fn entries(dir: &Path) -> Vec<Value> {
    let paths = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let texts = paths.filter_map(|path| std::fs::read(path).ok());
    texts
        .map(|text| serde_json::from_slice(&text).unwrap_or(Value::Null))
        .collect()
}
