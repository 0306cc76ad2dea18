use super::*;

fn api() -> Api {
    Api::new(0, 1000).unwrap()
}

fn node(api: &Api, name: &str, more: Value) {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"zone": name}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"pods": "2"}},
    });
    json_patch::merge(&mut node, &more);
    let res = api.registry().find("", "v1", "nodes").unwrap();
    api.create(&res, "", node, WriteOptions::default()).unwrap();
}

fn pod(api: &Api, name: &str, spec: Value) {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    json_patch::merge(&mut pod, &json!({"spec": spec}));
    let res = api.registry().find("", "v1", "pods").unwrap();
    api.create(&res, "default", pod, WriteOptions::default())
        .unwrap();
}

fn get(api: &Api, name: &str) -> Arc<Value> {
    let res = api.registry().find("", "v1", "pods").unwrap();
    api.get(&res, "default", name).unwrap()
}

fn node_of(api: &Api, name: &str) -> String {
    text(&get(api, name), "/spec/nodeName").to_owned()
}

#[test]
fn pods_spread_and_stop_where_nodes_are_full() {
    let api = api();
    node(&api, "a", json!({}));
    node(&api, "b", json!({}));
    for i in 0..5 {
        pod(&api, &format!("p{i}"), json!({}));
    }
    schedule(&api);
    let nodes: Vec<String> = (0..5).map(|i| node_of(&api, &format!("p{i}"))).collect();
    assert_eq!(nodes, ["a", "b", "a", "b", ""]);
    let left = get(&api, "p4");
    assert_eq!(
        left["status"]["conditions"][0]["message"],
        "0/2 nodes are available: 2 Too many pods."
    );
    assert_eq!(left["status"]["conditions"][0]["reason"], "Unschedulable");
    assert_eq!(left["status"]["phase"], "Pending");
    assert_eq!(condition(&get(&api, "p0"), "PodScheduled"), "True");
    // The same answer is not written again.
    schedule(&api);
    assert_eq!(object::version(&get(&api, "p4")), object::version(&left));
}

#[test]
fn selectors_taints_and_state_of_nodes() {
    let api = api();
    node(&api, "plain", json!({}));
    node(
        &api,
        "tainted",
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
    );
    node(&api, "cordoned", json!({"spec": {"unschedulable": true}}));
    node(
        &api,
        "down",
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
    );
    let toleration = json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"});
    pod(&api, "zone", json!({"nodeSelector": {"zone": "tainted"}}));
    pod(
        &api,
        "zone-ok",
        json!({"nodeSelector": {"zone": "tainted"}, "tolerations": [toleration]}),
    );
    pod(
        &api,
        "any-taint",
        json!({"nodeSelector": {"zone": "tainted"}, "tolerations": [{"operator": "Exists"}]}),
    );
    pod(&api, "other", json!({"schedulerName": "mine"}));
    schedule(&api);
    assert_eq!(node_of(&api, "zone-ok"), "tainted");
    assert_eq!(node_of(&api, "any-taint"), "tainted");
    assert_eq!(node_of(&api, "other"), "");
    assert_eq!(
        get(&api, "zone")["status"]["conditions"][0]["message"],
        "0/4 nodes are available: 1 node(s) didn't match Pod's node selector, 1 node(s) had taint {k: v}, that the pod \
         didn't tolerate, 1 node(s) were not ready, 1 node(s) were unschedulable."
    );
}
