//! Tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use crate::client::{MERGE, STRATEGIC, TABLE};
use crate::fixture::{Fixture, open_schema, pod, version};

fn headings(table: &Value) -> Vec<String> {
    table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect()
}

fn cell<'a>(table: &'a Value, row: usize, heading: &str) -> &'a Value {
    let at = headings(table).iter().position(|h| h == heading).unwrap();
    &table["rows"][row]["cells"][at]
}

#[tokio::test]
async fn printer_columns_of_a_definition() {
    let f = Fixture::new().await;
    let columns = json!({"additionalPrinterColumns": [
        {"name": "Node", "type": "string", "jsonPath": ".spec.node"},
        {"name": "Used", "type": "integer", "jsonPath": ".status.used"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
        {"name": "Wide", "type": "string", "jsonPath": ".spec.list[0].id", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]});
    let path = f.define(open_schema(), columns).await;
    f.client
        .post(
            &path,
            &f.thing("a", json!({"node": "n1", "list": [{"id": "x"}]})),
        )
        .await
        .expect(201);
    let status = json!({"status": {"used": 7, "conditions": [
        {"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    f.client
        .patch(&format!("{path}/a/status"), MERGE, &status)
        .await
        .expect(200);
    f.client
        .post(&path, &f.thing("b", json!({"node": "n2"})))
        .await
        .expect(201);
    let table = f.client.table(&path).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(
        headings(&table),
        ["Name", "Node", "Used", "Ready", "Wide", "Age"]
    );
    assert_eq!(table["columnDefinitions"][4]["priority"], 1);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        cells[..5],
        [json!("a"), json!("n1"), json!(7), json!("True"), json!("x")]
    );
    assert!(cells[5].as_str().unwrap().ends_with('s'), "{cells:?}");
    assert_eq!(cell(&table, 1, "Ready"), &json!(null));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    assert!(!version(&table).is_empty());
    let full = f
        .client
        .table(&format!("{path}/a?includeObject=Object"))
        .await
        .expect(200);
    assert_eq!(full["rows"][0]["object"]["spec"]["node"], "n1");
}

#[tokio::test]
async fn without_columns_there_are_name_and_age() {
    let f = Fixture::new().await;
    let path = f.define(open_schema(), json!({})).await;
    f.client
        .post(&path, &f.thing("a", json!({})))
        .await
        .expect(201);
    let table = f.client.table(&path).await.expect(200);
    assert_eq!(headings(&table), ["Name", "Age"]);
}

#[tokio::test]
async fn pods_and_nodes() {
    let f = Fixture::new().await;
    let pods = f.core("pods");
    let body = pod(
        "p",
        json!({"nodeName": "n", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}),
    );
    f.client.post(&pods, &body).await.expect(201);
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "image": "i", "imageID": "", "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 1, "image": "i", "imageID": "",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ],
    }});
    f.client
        .patch(&format!("{pods}/p/status"), STRATEGIC, &status)
        .await
        .expect(200);
    let table = f.client.table(&pods).await.expect(200);
    assert_eq!(
        headings(&table)[..5],
        ["Name", "Ready", "Status", "Restarts", "Age"]
    );
    assert_eq!(cell(&table, 0, "Ready"), "1/2");
    assert_eq!(cell(&table, 0, "Status"), "CrashLoopBackOff");
    assert_eq!(cell(&table, 0, "IP"), "10.0.0.7");
    assert_eq!(cell(&table, 0, "Node"), "n");
    f.client
        .delete(&format!("{pods}/p"), None)
        .await
        .expect(200);
    let table = f.client.table(&pods).await.expect(200);
    assert_eq!(cell(&table, 0, "Status"), "Terminating");

    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node-{}", f.ns), "labels": {"node-role.kubernetes.io/worker": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1-lab"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        },
    });
    f.client.post("/api/v1/nodes", &node).await.expect(201);
    let path = format!("/api/v1/nodes/node-{}", f.ns);
    let table = f.client.table(&path).await.expect(200);
    assert_eq!(cell(&table, 0, "Status"), "Ready,SchedulingDisabled");
    assert_eq!(cell(&table, 0, "Roles"), "worker");
    assert_eq!(cell(&table, 0, "Version"), "v1-lab");
    assert_eq!(cell(&table, 0, "Internal-IP"), "10.0.0.1");
    f.client.delete(&path, None).await.expect(200);
}

#[tokio::test]
async fn a_watch_of_tables_says_its_columns_once() {
    let f = Fixture::new().await;
    let list = f.client.table(&f.maps()).await.expect(200);
    let query = format!(
        "{}?resourceVersion={}&labelSelector=mine",
        f.maps(),
        version(&list)
    );
    let mut watch = f.client.watch_as(&query, TABLE).await;
    f.map("a", json!({"labels": {"mine": ""}})).await;
    f.map("b", json!({"labels": {"mine": ""}})).await;
    let (kind, first) = watch.event().await;
    assert_eq!((kind.as_str(), &first["kind"]), ("ADDED", &json!("Table")));
    assert_eq!(headings(&first), ["Name", "Data", "Age"]);
    assert_eq!(first["rows"][0]["cells"][0], "a");
    let (_, second) = watch.event().await;
    assert!(
        second["columnDefinitions"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    assert_eq!(second["rows"][0]["object"]["metadata"]["name"], "b");
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let f = Fixture::new().await;
    f.map("a", json!({})).await;
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
    let path = format!("{}/a", f.maps());
    let got = f
        .client
        .call(hyper::Method::GET, &path, accept, None)
        .await
        .expect(200);
    assert_eq!(got["kind"], "PartialObjectMetadata");
    assert!(got.get("data").is_none());
    let protobuf = f
        .client
        .call(hyper::Method::GET, &path, "application/x-unknown", None)
        .await;
    protobuf.fails(406, "NotAcceptable");
}
