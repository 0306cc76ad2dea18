//! Addresses that pods hold and that the specification no longer lists: somebody took them in the cloud. The pods keep them
//! until their DEL; everybody is told, because nobody else can reach them any more.

use tombolo_core::types::Reason;

use crate::journal::{Phase, Record};
use crate::node::Problem;
use crate::spec::Plan;

/// Most pods that a message names.
const NAMED: usize = 5;

/// One problem for all of them; none where there are none.
pub fn problem(records: &[Record], plan: &Plan) -> Option<Problem> {
    let mut lost: Vec<String> = records
        .iter()
        .filter(|record| record.phase == Phase::Ready)
        .flat_map(|record| record.addresses.iter().map(move |a| (record, a)))
        .filter(|(_, address)| {
            let mut nics = plan.nics.iter().filter(|nic| nic.id == address.nic);
            !nics.any(|nic| nic.addresses.contains(&address.ip))
        })
        .map(|(record, address)| format!("{} of {} ({})", address.ip, record.pod, address.nic))
        .collect();
    if lost.is_empty() {
        return None;
    }
    lost.sort();
    let more = lost.len().saturating_sub(NAMED);
    lost.truncate(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Some(Problem {
        reason: Reason::ForeignConflict,
        message: format!(
            "the cloud no longer lists addresses that pods hold: {}{more}",
            lost.join(", ")
        ),
        serving: true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(ip: &str, phase: &str) -> Record {
        let key = json!({"network": "net", "container_id": format!("c-{ip}"), "ifname": "eth0"});
        let record: Value = json!({
            "key": key, "pod": {"namespace": "default", "name": "p"}, "phase": phase,
            "netns": {"dev": 4, "ino": 9, "path": "/run/netns/x"},
            "addresses": [{"ip": ip, "nic": "eni-0"}], "mtu": 1500, "host_ifindex": 7, "since": 5,
        });
        serde_json::from_value(record).unwrap()
    }

    fn plan(addresses: &[&str]) -> Plan {
        let nic = json!({
            "id": "eni-0", "mac": "02:00:00:00:00:00", "deviceIndex": 0, "subnet": "s", "cidr4": "10.0.0.0/24",
            "gateway4": "10.0.0.1", "primary4": "10.0.0.10", "mtu": 1500, "addresses": addresses,
        });
        let spec = json!({
            "instanceId": "i-1", "instanceType": "t", "zone": "z",
            "profile": {"name": "default", "ipFamilies": "DualStack", "pool": {}, "snat": true},
            "limits": {"maxNics": 2, "ipv4PerNic": 4, "ipv6PerNic": 4},
            "vpcCidrs": ["10.0.0.0/16"], "nics": [nic],
        });
        Plan::new(1, &serde_json::from_value(spec).unwrap(), 110).unwrap()
    }

    #[test]
    fn what_running_pods_hold_and_nobody_lists_is_named() {
        let all = ["10.0.0.20", "10.0.0.21"];
        let records = all.map(|ip| record(ip, "ready"));
        assert!(problem(&records, &plan(&all)).is_none());
        let told = problem(&records, &plan(&all[..1])).unwrap();
        assert_eq!((told.reason, told.serving), (Reason::ForeignConflict, true));
        assert!(told.message.contains("10.0.0.21") && !told.message.contains("10.0.0.20"));
        // One that is just going away needs no complaint.
        assert!(problem(&[record("10.0.0.9", "draining")], &plan(&all)).is_none());
        let many: Vec<Record> = (30..40)
            .map(|n| record(&format!("10.0.0.{n}"), "ready"))
            .collect();
        let told = problem(&many, &plan(&all)).unwrap();
        assert!(told.message.ends_with("and 5 more"), "{}", told.message);
    }
}
