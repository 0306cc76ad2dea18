//! What the node's kernel holds, asked of `ip` and `nft`.

use std::process::Command;

use serde_json::{Value, json};

use super::{Bed, in_netns, ip_json};

impl Bed {
    /// Our rules and routes, and the nft rule set, in comparable form.
    pub fn kernel(&self) -> Value {
        let rules = |family| {
            let mut shown = ip_json(&self.node, &format!("{family} rule show"));
            let all = shown.as_array_mut().unwrap();
            all.retain(|rule| rule["protocol"] == "116");
            // Rules of one priority differ in what they select; which of them came first says nothing.
            all.sort_by_key(|rule| (rule["priority"].as_u64(), rule.to_string()));
            shown
        };
        let routes = |family| {
            let mut all = ip_json(
                &self.node,
                &format!("{family} route show table all proto 116"),
            );
            all.as_array_mut().unwrap().sort_by_key(ToString::to_string);
            all
        };
        json!({
            "rules": [rules("-4"), rules("-6")],
            "routes": [routes("-4"), routes("-6")],
            "nft": self.nft(),
        })
    }

    /// Our tables, without handles and counters.
    pub fn nft(&self) -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(map) => {
                    for key in ["handle", "packets", "bytes", "metainfo"] {
                        map.remove(key);
                    }
                    map.values_mut().for_each(strip);
                }
                Value::Array(list) => list.iter_mut().for_each(strip),
                _ => {}
            }
        }
        let mut all: Value =
            serde_json::from_str(&in_netns(&self.node, "nft", &["-j", "list", "ruleset"])).unwrap();
        strip(&mut all);
        all
    }

    /// What the kernel holds, for whoever reads a failed test.
    pub fn dump(&self) {
        for netns in [&self.node, &self.fabric].into_iter().chain(&self.pods) {
            let show = "ip -br link; ip -br addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; \
                        ip neigh; ip -s -s link | grep -A1 -i errors; nft list ruleset; nstat -az | grep -i 'filter\\|NoRoute\\|Discards'";
            let enter = format!("--net=/run/netns/{netns}");
            let output = Command::new("nsenter")
                .args([&enter, "sh", "-c", show])
                .output();
            let text = output
                .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                .unwrap_or_default();
            eprintln!("--- {netns}\n{text}");
        }
    }
}
