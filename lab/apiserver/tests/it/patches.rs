//! Merge, JSON and strategic merge patches.

use serde_json::json;

use crate::client::{JSON_PATCH, MERGE, STRATEGIC};
use crate::fixture::{Fixture, is_like_1_20, open_schema, pod, version};

#[tokio::test]
async fn merge_patches() {
    let f = Fixture::new().await;
    f.map("a", json!({"labels": {"x": "1", "y": "2"}})).await;
    let path = format!("{}/a", f.maps());
    let patch = json!({"metadata": {"labels": {"x": null, "z": "3"}}, "data": {"l": "w"}});
    let patched = f.client.patch(&path, MERGE, &patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"y": "2", "z": "3"}));
    assert_eq!(patched["data"], json!({"k": "v", "l": "w"}));
    let same = f.client.patch(&path, MERGE, &patch).await.expect(200);
    assert_eq!(version(&patched), version(&same));
    let missing = format!("{}/b", f.maps());
    f.client
        .patch(&missing, MERGE, &patch)
        .await
        .fails(404, "NotFound");
}

#[tokio::test]
async fn a_patch_with_an_old_version_conflicts() {
    let f = Fixture::new().await;
    let made = f.map("a", json!({})).await;
    let path = format!("{}/a", f.maps());
    let patch = |value: &str| json!({"metadata": {"resourceVersion": version(&made)}, "data": {"k": value}});
    f.client.patch(&path, MERGE, &patch("1")).await.expect(200);
    f.client
        .patch(&path, MERGE, &patch("2"))
        .await
        .fails(409, "Conflict");
}

#[tokio::test]
async fn metadata_of_the_server_cannot_be_patched() {
    let f = Fixture::new().await;
    let made = f.map("a", json!({})).await;
    let path = format!("{}/a", f.maps());
    let ended = json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let refused = f
        .client
        .patch(&path, MERGE, &ended)
        .await
        .fails(422, "Invalid");
    assert_eq!(
        refused["details"]["causes"][0]["field"],
        "metadata.deletionTimestamp"
    );
    let patch = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}});
    let patched = f.client.patch(&path, MERGE, &patch).await.expect(200);
    assert_eq!(
        patched["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
    let renamed = json!({"metadata": {"name": "b"}});
    f.client
        .patch(&path, MERGE, &renamed)
        .await
        .fails(400, "BadRequest");
}

#[tokio::test]
async fn json_patches() {
    let f = Fixture::new().await;
    f.map("a", json!({})).await;
    let path = format!("{}/a", f.maps());
    let patch = json!([
        {"op": "test", "path": "/data/k", "value": "v"},
        {"op": "add", "path": "/data/l", "value": "w"},
        {"op": "remove", "path": "/data/k"},
    ]);
    let patched = f.client.patch(&path, JSON_PATCH, &patch).await.expect(200);
    assert_eq!(patched["data"], json!({"l": "w"}));
    let unmet = f.client.patch(&path, JSON_PATCH, &patch).await;
    assert_eq!(unmet.code, 422, "{}", unmet.body);
    let broken = f
        .client
        .patch(&path, JSON_PATCH, &json!([{"op": "fly"}]))
        .await;
    assert_eq!(broken.code, 422, "{}", broken.body);
    let other = f.client.patch(&path, JSON_PATCH, &json!({"data": 1})).await;
    assert_eq!(other.code, 400, "{}", other.body);
}

#[tokio::test]
async fn strategic_patches() {
    let f = Fixture::new().await;
    let pods = f.core("pods");
    f.client.post(&pods, &pod("p", json!({}))).await.expect(201);
    let at = format!("{pods}/p/status");
    let condition = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
    f.client
        .patch(&at, STRATEGIC, &condition("A", "True"))
        .await
        .expect(200);
    f.client
        .patch(&at, STRATEGIC, &condition("B", "True"))
        .await
        .expect(200);
    let patched = f
        .client
        .patch(&at, STRATEGIC, &condition("A", "False"))
        .await
        .expect(200);
    let mut found: Vec<String> = patched["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["type"] == "A" || c["type"] == "B")
        .map(|c| {
            format!(
                "{}={}",
                c["type"].as_str().unwrap(),
                c["status"].as_str().unwrap()
            )
        })
        .collect();
    found.sort();
    assert_eq!(found, ["A=False", "B=True"]);
    let finalizers = |list| json!({"metadata": {"finalizers": list}});
    let path = format!("{pods}/p");
    f.client
        .patch(&path, STRATEGIC, &finalizers(json!(["x.io/a"])))
        .await
        .expect(200);
    let patched = f
        .client
        .patch(&path, STRATEGIC, &finalizers(json!(["x.io/b"])))
        .await
        .expect(200);
    assert_eq!(
        patched["metadata"]["finalizers"].as_array().unwrap().len(),
        2
    );
    let gone = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a", "x.io/b"]}});
    f.client.patch(&path, STRATEGIC, &gone).await.expect(200);
}

#[tokio::test]
async fn other_patches_are_refused() {
    let f = Fixture::new().await;
    let things = f.define(open_schema(), json!({})).await;
    f.client
        .post(&things, &f.thing("a", json!({})))
        .await
        .expect(201);
    let path = format!("{things}/a");
    let patch = json!({"spec": {"x": 1}});
    // Custom resources have no strategic merge.
    f.client
        .patch(&path, STRATEGIC, &patch)
        .await
        .fails(415, "UnsupportedMediaType");
    f.client
        .patch(&path, "text/plain", &patch)
        .await
        .fails(415, "UnsupportedMediaType");
    let array = f.client.patch(&path, MERGE, &json!([1])).await;
    let code = if is_like_1_20(&f.client).await {
        422
    } else {
        400
    };
    assert_eq!(array.code, code, "{}", array.body);
}

#[tokio::test]
async fn most_of_a_pods_spec_cannot_change() {
    let f = Fixture::new().await;
    let pods = f.core("pods");
    f.client.post(&pods, &pod("p", json!({}))).await.expect(201);
    let path = format!("{pods}/p");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    let patched = f.client.patch(&path, STRATEGIC, &image).await.expect(200);
    assert_eq!(patched["spec"]["containers"][0]["image"], "other");
    let policy = json!({"spec": {"restartPolicy": "Never"}});
    let refused = f
        .client
        .patch(&path, MERGE, &policy)
        .await
        .fails(422, "Invalid");
    assert_eq!(refused["details"]["causes"][0]["field"], "spec");
    let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q"}, "spec": {}});
    let refused = f.client.post(&pods, &empty).await.fails(422, "Invalid");
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.containers");
}
