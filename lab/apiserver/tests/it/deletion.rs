//! Deletion: at once, held by finalizers, graceful, with dependents, of namespaces and definitions.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{MERGE, PATIENCE};
use crate::fixture::{Fixture, names, open_schema, pod, version};

const FINALIZER: &str = "lab.tombolo.dev/hold";

#[tokio::test]
async fn an_object_without_holders_is_gone_at_once() {
    let f = Fixture::new().await;
    let things = f.define(open_schema(), json!({})).await;
    let made = f
        .client
        .post(&things, &f.thing("a", json!({})))
        .await
        .expect(201);
    let at = format!("{things}/a");
    let status = f.client.delete(&at, None).await.expect(200);
    assert_eq!(status["kind"], "Status");
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    f.client.get(&at).await.fails(404, "NotFound");
    f.client.delete(&at, None).await.fails(404, "NotFound");
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let f = Fixture::new().await;
    let things = f.define(open_schema(), json!({})).await;
    let mut body = f.thing("a", json!({}));
    body["metadata"]["finalizers"] = json!([FINALIZER]);
    let made = f.client.post(&things, &body).await.expect(201);
    let mut watch = f
        .client
        .watch(&format!("{things}?resourceVersion={}", version(&made)))
        .await;
    let at = format!("{things}/a");
    let marked = f.client.delete(&at, None).await.expect(200);
    assert_eq!(marked["kind"], "Thing");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(watch.brief().await, "MODIFIED a");
    // A second deletion changes nothing.
    let again = f.client.delete(&at, None).await.expect(200);
    assert_eq!(version(&again), version(&marked));
    let more = json!({"metadata": {"finalizers": [FINALIZER, "lab.tombolo.dev/more"]}});
    let refused = f
        .client
        .patch(&at, MERGE, &more)
        .await
        .fails(422, "Invalid");
    assert_eq!(
        refused["details"]["causes"][0]["field"],
        "metadata.finalizers"
    );
    f.client
        .patch(&at, MERGE, &json!({"spec": {"x": 1}}))
        .await
        .expect(200);
    assert_eq!(watch.brief().await, "MODIFIED a");
    f.client
        .patch(&at, MERGE, &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    assert_eq!(watch.brief().await, "DELETED a");
    f.client.get(&at).await.fails(404, "NotFound");
}

#[tokio::test]
async fn preconditions_guard_a_deletion() {
    let f = Fixture::new().await;
    let made = f.map("a", json!({})).await;
    let at = format!("{}/a", f.maps());
    let wrong =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    f.client
        .delete(&at, Some(&wrong))
        .await
        .fails(409, "Conflict");
    let old = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": "1"}});
    f.client
        .delete(&at, Some(&old))
        .await
        .fails(409, "Conflict");
    let right = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": made["metadata"]["uid"]}});
    f.client.delete(&at, Some(&right)).await.expect(200);
}

#[tokio::test]
async fn a_running_pod_gets_time_to_end() {
    let f = Fixture::new().await;
    let pods = f.core("pods");
    let spec = json!({"nodeName": "no-such-node", "terminationGracePeriodSeconds": 25});
    f.client.post(&pods, &pod("p", spec)).await.expect(201);
    let at = format!("{pods}/p");
    let marked = f.client.delete(&at, None).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 25);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let grace = |seconds: i64| json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": seconds});
    // It can be shortened, not lengthened.
    let longer = f.client.delete(&at, Some(&grace(60))).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 25);
    let shorter = f.client.delete(&at, Some(&grace(5))).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // Its kubelet says that it ended.
    f.client.delete(&at, Some(&grace(0))).await.expect(200);
    f.client.get(&at).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_pod_that_runs_nowhere_is_gone_at_once() {
    let f = Fixture::new().await;
    let pods = f.core("pods");
    f.client
        .post(&pods, &pod("p", json!({"schedulerName": "nobody"})))
        .await
        .expect(201);
    f.client
        .delete(&format!("{pods}/p"), None)
        .await
        .expect(200);
    f.client
        .get(&format!("{pods}/p"))
        .await
        .fails(404, "NotFound");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let f = Fixture::new().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        f.map(name, json!({"labels": {"app": app}})).await;
    }
    f.client
        .delete(&format!("{}?labelSelector=app%3Dx", f.maps()), None)
        .await
        .expect(200);
    let list = f
        .client
        .get(&format!("{}?labelSelector=app", f.maps()))
        .await
        .expect(200);
    assert_eq!(names(&list), ["c"]);
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
    })
}

#[tokio::test]
async fn dependents_follow_their_owner() {
    let f = Fixture::new().await;
    let a = f.map("owner-a", json!({})).await;
    let b = f.map("owner-b", json!({})).await;
    f.map("child", json!({"ownerReferences": [owner(&a)]}))
        .await;
    f.map("shared", json!({"ownerReferences": [owner(&a), owner(&b)]}))
        .await;
    let free = f.map("free", json!({})).await;
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&free)))
        .await;
    f.client
        .delete(&format!("{}/owner-a", f.maps()), None)
        .await
        .expect(200);
    // The child goes, the shared one loses the reference; in either order.
    let (mut gone, mut kept) = (false, false);
    while !(gone && kept) {
        let (kind, object) = watch.event().await;
        match (kind.as_str(), object["metadata"]["name"].as_str().unwrap()) {
            ("DELETED", "child") => gone = true,
            ("MODIFIED", "shared") => {
                let owners = object["metadata"]["ownerReferences"].as_array().unwrap();
                kept = owners.len() == 1 && owners[0]["name"] == "owner-b";
            }
            _ => {}
        }
    }
    f.client
        .delete(&format!("{}/owner-b", f.maps()), None)
        .await
        .expect(200);
    watch.until("DELETED", "shared").await;
    f.client
        .get(&format!("{}/free", f.maps()))
        .await
        .expect(200);
}

#[tokio::test]
async fn an_object_of_a_gone_owner_goes_too() {
    let f = Fixture::new().await;
    let ghost = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "00000000-0000-4000-8000-000000000001"});
    let made = f.map("child", json!({"ownerReferences": [ghost]})).await;
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&made)))
        .await;
    watch.until("DELETED", "child").await;
}

#[tokio::test]
async fn dependents_can_stay_or_go_first() {
    let f = Fixture::new().await;
    let policy = |word: &str| json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": word});
    let a = f.map("a", json!({})).await;
    let made = f
        .map("orphan", json!({"ownerReferences": [owner(&a)]}))
        .await;
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&made)))
        .await;
    f.client
        .delete(&format!("{}/a", f.maps()), Some(&policy("Orphan")))
        .await
        .expect(200);
    watch.until("DELETED", "a").await;
    let orphan = f
        .client
        .get(&format!("{}/orphan", f.maps()))
        .await
        .expect(200);
    assert!(orphan["metadata"].get("ownerReferences").is_none());

    let b = f.map("b", json!({})).await;
    let mut reference = owner(&b);
    reference["blockOwnerDeletion"] = json!(true);
    f.map(
        "first",
        json!({"ownerReferences": [reference], "finalizers": [FINALIZER]}),
    )
    .await;
    let waiting = f
        .client
        .delete(&format!("{}/b", f.maps()), Some(&policy("Foreground")))
        .await
        .expect(200);
    assert_eq!(
        waiting["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    // The dependent is marked, held, and the owner waits for it.
    loop {
        let object = watch.until("MODIFIED", "first").await;
        if object["metadata"]["deletionTimestamp"].is_string() {
            break;
        }
    }
    f.client.get(&format!("{}/b", f.maps())).await.expect(200);
    let release = json!({"metadata": {"finalizers": null}});
    f.client
        .patch(&format!("{}/first", f.maps()), MERGE, &release)
        .await
        .expect(200);
    watch.until("DELETED", "first").await;
    watch.until("DELETED", "b").await;
}

#[tokio::test]
async fn a_namespace_goes_after_its_content() {
    let f = Fixture::new().await;
    f.map("plain", json!({})).await;
    f.map("held", json!({"finalizers": [FINALIZER]})).await;
    let path = format!("/api/v1/namespaces/{}", f.ns);
    let made = f.client.get(&path).await.expect(200);
    assert_eq!(made["status"]["phase"], "Active");
    let watch = format!(
        "/api/v1/namespaces?fieldSelector=metadata.name%3D{}&resourceVersion={}",
        f.ns,
        version(&made)
    );
    let mut watch = f.client.watch(&watch).await;
    let mut maps = f.client.watch(&f.maps()).await;
    let marked = f.client.delete(&path, None).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    maps.until("DELETED", "plain").await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    f.client
        .post(&f.maps(), &body)
        .await
        .fails(403, "Forbidden");
    f.client.get(&path).await.expect(200);
    let release = json!({"metadata": {"finalizers": null}});
    f.client
        .patch(&format!("{}/held", f.maps()), MERGE, &release)
        .await
        .expect(200);
    watch.until("DELETED", &f.ns).await;
    f.client.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_definition_goes_after_its_objects() {
    let f = Fixture::new().await;
    let things = f.define(open_schema(), json!({})).await;
    let made = f
        .client
        .post(&things, &f.thing("a", json!({})))
        .await
        .expect(201);
    let mut watch = f
        .client
        .watch(&format!("{things}?resourceVersion={}", version(&made)))
        .await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let name = format!("things.{}.lab.tombolo.dev", f.ns);
    let mut gone = f
        .client
        .watch(&format!(
            "{definitions}?fieldSelector=metadata.name%3D{name}"
        ))
        .await;
    f.client
        .delete(&format!("{definitions}/{name}"), None)
        .await
        .expect(200);
    watch.until("DELETED", "a").await;
    gone.until("DELETED", &name).await;
    // A server hears of its own definitions by a watch, too.
    let begin = Instant::now();
    loop {
        let list = f.client.get(&things).await;
        if list.code == 404 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{}", list.body);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
