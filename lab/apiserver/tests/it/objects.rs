//! Create, get, list, replace; versions and conflicts; selectors and pages.

use serde_json::json;

use crate::fixture::{Fixture, names, pod, version};

#[tokio::test]
async fn created_objects_carry_what_the_server_gives() {
    let f = Fixture::new().await;
    let made = f.map("a", json!({"labels": {"x": "y"}})).await;
    let meta = &made["metadata"];
    assert_eq!(meta["namespace"], f.ns);
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(!version(&made).is_empty());
    let got = f.client.get(&format!("{}/a", f.maps())).await.expect(200);
    assert_eq!(got["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(got["kind"], "ConfigMap");
    let second = f.map("b", json!({})).await;
    let number = |o| version(o).parse::<u64>().unwrap();
    assert!(number(&second) > number(&made));
}

#[tokio::test]
async fn names_are_generated() {
    let f = Fixture::new().await;
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let a = f.client.post(&f.maps(), &body).await.expect(201);
    let b = f.client.post(&f.maps(), &body).await.expect(201);
    let name = |o: &serde_json::Value| o["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&a).starts_with("gen-") && name(&a).len() == 9);
    assert_ne!(name(&a), name(&b));
}

#[tokio::test]
async fn failures_name_their_object() {
    let f = Fixture::new().await;
    f.map("a", json!({})).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let taken = f
        .client
        .post(&f.maps(), &body)
        .await
        .fails(409, "AlreadyExists");
    assert_eq!(taken["details"]["name"], "a");
    assert_eq!(taken["details"]["kind"], "configmaps");
    assert_eq!(taken["message"], "configmaps \"a\" already exists");
    let missing = f
        .client
        .get(&format!("{}/b", f.maps()))
        .await
        .fails(404, "NotFound");
    assert_eq!(missing["message"], "configmaps \"b\" not found");
    assert_eq!(missing["details"]["name"], "b");
    let nowhere = f
        .client
        .post("/api/v1/namespaces/no-such/configmaps", &body)
        .await;
    let nowhere = nowhere.fails(404, "NotFound");
    assert_eq!(nowhere["details"]["kind"], "namespaces");
    let unserved = f.client.get("/apis/no.such.group/v1/things").await;
    assert_eq!(unserved.code, 404);
}

#[tokio::test]
async fn bodies_must_agree_with_the_path() {
    let f = Fixture::new().await;
    let map = |meta| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta});
    let post = async |body| f.client.post(&f.maps(), &body).await;
    post(map(json!({"name": "a", "namespace": "other"})))
        .await
        .fails(400, "BadRequest");
    post(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}))
        .await
        .fails(400, "BadRequest");
    let nameless = post(map(json!({}))).await.fails(422, "Invalid");
    assert_eq!(nameless["details"]["causes"][0]["field"], "metadata.name");
    let bad = post(map(json!({"name": "Not_A_Name"})))
        .await
        .fails(422, "Invalid");
    assert_eq!(bad["details"]["causes"][0]["reason"], "FieldValueInvalid");
    let labels = post(map(json!({"name": "a", "labels": {"x": "not ok"}}))).await;
    let labels = labels.fails(422, "Invalid");
    assert_eq!(labels["details"]["causes"][0]["field"], "metadata.labels");
    assert_eq!(
        post(map(json!({"name": "a", "resourceVersion": "7"})))
            .await
            .code,
        500
    );
    f.map("a", json!({})).await;
    let put = f
        .client
        .put(&format!("{}/a", f.maps()), &map(json!({"name": "b"})))
        .await;
    put.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_replace_with_an_old_version_conflicts() {
    let f = Fixture::new().await;
    let first = f.map("a", json!({})).await;
    let path = format!("{}/a", f.maps());
    let mut next = first.clone();
    next["data"]["k"] = json!("w");
    let second = f.client.put(&path, &next).await.expect(200);
    assert_ne!(version(&first), version(&second));
    next["data"]["k"] = json!("x");
    let conflict = f.client.put(&path, &next).await.fails(409, "Conflict");
    let message = conflict["message"].as_str().unwrap();
    assert!(
        message.contains("the object has been modified"),
        "{message}"
    );
    // Without a version it is unconditional, where the kind allows that.
    next["metadata"] = json!({"name": "a"});
    let third = f.client.put(&path, &next).await.expect(200);
    assert_eq!(third["data"]["k"], "x");
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    next["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    f.client.put(&path, &next).await.fails(409, "Conflict");
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_version() {
    let f = Fixture::new().await;
    let first = f.map("a", json!({})).await;
    let path = format!("{}/a", f.maps());
    let same = f.client.put(&path, &first).await.expect(200);
    assert_eq!(version(&first), version(&same));
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let f = Fixture::new().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dry"}});
    let path = format!("{}?dryRun=All", f.maps());
    f.client.post(&path, &body).await.expect(201);
    f.client
        .get(&format!("{}/dry", f.maps()))
        .await
        .fails(404, "NotFound");
    f.map("a", json!({})).await;
    f.client
        .delete(&format!("{}/a?dryRun=All", f.maps()), None)
        .await
        .expect(200);
    f.client.get(&format!("{}/a", f.maps())).await.expect(200);
}

#[tokio::test]
async fn leases_are_renewed_by_replace() {
    let f = Fixture::new().await;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", f.ns);
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    });
    let made = f.client.post(&path, &lease).await.expect(201);
    let at = format!("{path}/l");
    // Leases take no blind write.
    let blind = f.client.put(&at, &lease).await.fails(422, "Invalid");
    assert_eq!(
        blind["details"]["causes"][0]["field"],
        "metadata.resourceVersion"
    );
    lease["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    lease["spec"]["holderIdentity"] = json!("b");
    f.client.put(&at, &lease).await.expect(200);
    f.client.put(&at, &lease).await.fails(409, "Conflict");
}

#[tokio::test]
async fn lists_select_by_labels_and_fields() {
    let f = Fixture::new().await;
    f.map("a", json!({"labels": {"app": "web", "tier": "front"}}))
        .await;
    f.map("b", json!({"labels": {"app": "web", "tier": "back"}}))
        .await;
    f.map("c", json!({"labels": {"app": "db"}})).await;
    for (selector, expected) in [
        ("labelSelector=app%3Dweb", vec!["a", "b"]),
        ("labelSelector=app%3Dweb,tier!%3Dback", vec!["a"]),
        ("labelSelector=app+in+(web,db),tier", vec!["a", "b"]),
        ("labelSelector=app,!tier", vec!["c"]),
        (
            "labelSelector=tier+notin+(front)&fieldSelector=metadata.name!%3Db",
            vec!["c"],
        ),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
    ] {
        let list = f
            .client
            .get(&format!("{}?{selector}", f.maps()))
            .await
            .expect(200);
        let found: Vec<&str> = names(&list)
            .into_iter()
            .filter(|n| *n != "kube-root-ca.crt")
            .collect();
        assert_eq!(found, expected, "{selector}");
    }
    let bad = f
        .client
        .get(&format!("{}?fieldSelector=data.k%3Dv", f.maps()))
        .await;
    bad.fails(400, "BadRequest");
    let pods = f.core("pods");
    for name in ["p", "q"] {
        let spec = json!({"nodeName": format!("node-{name}")});
        f.client.post(&pods, &pod(name, spec)).await.expect(201);
    }
    let list = f
        .client
        .get(&format!(
            "{pods}?fieldSelector=spec.nodeName%3Dnode-q,status.phase!%3DFailed"
        ))
        .await;
    assert_eq!(names(&list.expect(200)), ["q"]);
    // Every namespace at once.
    let all = f
        .client
        .get(&format!(
            "/api/v1/pods?fieldSelector=metadata.namespace%3D{}",
            f.ns
        ))
        .await;
    assert_eq!(names(&all.expect(200)), ["p", "q"]);
}

#[tokio::test]
async fn pages_show_one_moment() {
    let f = Fixture::new().await;
    let things = f.define(crate::fixture::open_schema(), json!({})).await;
    for name in ["a", "b", "c", "d", "e"] {
        f.client
            .post(&things, &f.thing(name, json!({})))
            .await
            .expect(201);
    }
    let first = f.client.get(&format!("{things}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens between the pages does not show.
    f.client
        .post(&things, &f.thing("aa", json!({})))
        .await
        .expect(201);
    f.client
        .post(&things, &f.thing("cc", json!({})))
        .await
        .expect(201);
    f.client
        .delete(&format!("{things}/d"), None)
        .await
        .expect(200);
    let mut seen = Vec::new();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    while !token.is_empty() {
        let page = f
            .client
            .get(&format!("{things}?limit=2&continue={token}"))
            .await
            .expect(200);
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        seen.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    assert_eq!(seen, ["c", "d", "e"]);
    let now = f.client.get(&things).await.expect(200);
    assert_eq!(names(&now), ["a", "aa", "b", "c", "cc", "e"]);
    f.client
        .get(&format!("{things}?continue=nonsense"))
        .await
        .fails(400, "BadRequest");
}

#[tokio::test]
async fn lists_at_a_version() {
    let f = Fixture::new().await;
    f.map("a", json!({})).await;
    let list = f.client.get(&f.maps()).await.expect(200);
    let then = version(&list).to_owned();
    f.map("b", json!({})).await;
    let newer = f
        .client
        .get(&format!("{}?resourceVersion={then}", f.maps()))
        .await
        .expect(200);
    assert!(names(&newer).contains(&"b"));
    let exact = format!(
        "{}?resourceVersion={then}&resourceVersionMatch=Exact",
        f.maps()
    );
    let exact = f.client.get(&exact).await.expect(200);
    assert!(!names(&exact).contains(&"b") && names(&exact).contains(&"a"));
    let any = f
        .client
        .get(&format!("{}?resourceVersion=0", f.maps()))
        .await
        .expect(200);
    assert!(!names(&any).is_empty());
}

#[tokio::test]
async fn events_have_two_faces() {
    let f = Fixture::new().await;
    let new = format!("/apis/events.k8s.io/v1/namespaces/{}/events", f.ns);
    let body = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "tombolo.dev/test", "reportingInstance": "i",
        "action": "Test", "reason": "Tested", "type": "Normal", "note": "it works",
        "regarding": {"kind": "Pod", "apiVersion": "v1", "name": "p", "namespace": f.ns, "uid": "u-1"},
    });
    f.client.post(&new, &body).await.expect(201);
    let core = f
        .client
        .get(&format!("{}/e", f.core("events")))
        .await
        .expect(200);
    assert_eq!(core["apiVersion"], "v1");
    assert_eq!(core["message"], "it works");
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["reportingComponent"], "tombolo.dev/test");
    let found = format!(
        "{}?fieldSelector=involvedObject.name%3Dp,involvedObject.uid%3Du-1",
        f.core("events")
    );
    assert_eq!(names(&f.client.get(&found).await.expect(200)), ["e"]);
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let at = format!("{new}/e");
    let patched = f
        .client
        .patch(&at, crate::client::MERGE, &series)
        .await
        .expect(200);
    assert_eq!(patched["series"]["count"], 2);
    assert_eq!(patched["note"], "it works");
}

#[tokio::test]
async fn events_must_say_when_who_what_and_about_what() {
    let f = Fixture::new().await;
    let whole = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "tombolo.dev/test", "reportingInstance": "i",
        "action": "Test", "reason": "Tested", "type": "Warning", "note": "it works",
        "regarding": {"kind": "Pod", "apiVersion": "v1", "name": "p", "namespace": f.ns},
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", f.ns);
    let at_fault = |status: &serde_json::Value| {
        let causes = status["details"]["causes"].as_array().unwrap();
        causes
            .iter()
            .map(|cause| cause["field"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (pointer, value, field) in [
        ("/eventTime", json!(null), "eventTime"),
        ("/reportingController", json!(""), "reportingController"),
        ("/reportingInstance", json!(""), "reportingInstance"),
        ("/action", json!(""), "action"),
        ("/reason", json!(""), "reason"),
        ("/type", json!("Error"), "type"),
        ("/note", json!("n".repeat(1025)), "message"),
        // An object without a namespace: its Events are in `default`.
        (
            "/regarding",
            json!({"kind": "Node", "name": "n"}),
            "involvedObject.namespace",
        ),
    ] {
        let mut event = whole.clone();
        *event.pointer_mut(pointer).unwrap() = value;
        let refused = f.client.post(&path, &event).await.fails(422, "Invalid");
        assert!(
            at_fault(&refused).iter().any(|at| at == field),
            "{pointer}: {refused}"
        );
    }
    let mut of_node = whole.clone();
    of_node["regarding"] = json!({"kind": "Node", "name": f.ns, "uid": f.ns});
    of_node["metadata"] = json!({"generateName": format!("{}-", f.ns)});
    let system = "/apis/events.k8s.io/v1/namespaces/kube-system/events";
    f.client.post(system, &of_node).await.expect(201);
    of_node["metadata"] = json!({"generateName": format!("{}.", f.ns)});
    let refused = f.client.post(system, &of_node).await.fails(422, "Invalid");
    assert_eq!(at_fault(&refused), ["metadata.generateName"], "{refused}");
    f.client.post(&path, &whole).await.expect(201);
}

#[tokio::test]
async fn discovery_names_what_is_served() {
    let f = Fixture::new().await;
    f.define(crate::fixture::open_schema(), json!({})).await;
    let group = format!("{}.lab.tombolo.dev", f.ns);
    let groups = f.client.get("/apis").await.expect(200);
    let known = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .any(|g| g["name"] == group.as_str());
    assert!(known, "{groups}");
    let list = f.client.get(&format!("/apis/{group}/v1")).await.expect(200);
    let thing = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "things")
        .unwrap();
    assert_eq!(thing["kind"], "Thing");
    assert_eq!(thing["shortNames"], json!([f.short()]));
    assert_eq!(thing["categories"], json!([f.category()]));
    assert!(
        list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "things/status")
    );
    let core = f.client.get("/api/v1").await.expect(200);
    let has = |name: &str| {
        core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == name)
    };
    for name in [
        "pods",
        "pods/status",
        "pods/binding",
        "nodes",
        "nodes/status",
        "namespaces",
        "events",
        "configmaps",
    ] {
        assert!(has(name), "{name}");
    }
    for path in ["/healthz", "/readyz", "/livez", "/version"] {
        assert_eq!(f.client.get(path).await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn too_large_a_body_is_refused() {
    let f = Fixture::new().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"k": "x".repeat(4 << 20)}});
    f.client
        .post(&f.maps(), &body)
        .await
        .fails(413, "RequestEntityTooLarge");
}
