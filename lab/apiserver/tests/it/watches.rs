//! Watch: where it begins, what it tells, how it ends.

use serde_json::json;

use crate::client::MERGE;
use crate::fixture::{Fixture, is_real, names, open_schema, version};

/// Things, so that a real cluster's own objects do not show.
async fn things() -> (Fixture, String) {
    let f = Fixture::new().await;
    let path = f.define(open_schema(), json!({})).await;
    (f, path)
}

async fn make(f: &Fixture, path: &str, name: &str) -> serde_json::Value {
    f.client
        .post(path, &f.thing(name, json!({})))
        .await
        .expect(201)
}

#[tokio::test]
async fn a_watch_goes_on_from_a_list() {
    let (f, path) = things().await;
    make(&f, &path, "a").await;
    let list = f.client.get(&path).await.expect(200);
    assert_eq!(names(&list), ["a"]);
    // Between list and watch.
    make(&f, &path, "b").await;
    let mut watch = f
        .client
        .watch(&format!("{path}?resourceVersion={}", version(&list)))
        .await;
    assert_eq!(watch.brief().await, "ADDED b");
    f.client
        .patch(&format!("{path}/a"), MERGE, &json!({"spec": {"x": 1}}))
        .await
        .expect(200);
    let (kind, object) = watch.event().await;
    assert_eq!(
        (kind.as_str(), &object["spec"]["x"]),
        ("MODIFIED", &json!(1))
    );
    f.client
        .delete(&format!("{path}/a"), None)
        .await
        .expect(200);
    let (kind, object) = watch.event().await;
    assert_eq!(kind, "DELETED");
    assert_eq!(object["spec"]["x"], 1);
    // The version of a deletion is new, so that a watch can go on from it.
    let mut rest = f
        .client
        .watch(&format!("{path}?resourceVersion={}", version(&object)))
        .await;
    make(&f, &path, "c").await;
    assert_eq!(rest.brief().await, "ADDED c");
    assert_eq!(watch.brief().await, "ADDED c");
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let (f, path) = things().await;
    make(&f, &path, "a").await;
    make(&f, &path, "b").await;
    for query in ["", "?resourceVersion=0"] {
        let mut watch = f.client.watch(&format!("{path}{query}")).await;
        let mut first = [watch.brief().await, watch.brief().await];
        first.sort();
        assert_eq!(first, ["ADDED a", "ADDED b"], "{query}");
    }
}

#[tokio::test]
async fn selected_objects_come_and_go() {
    let (f, path) = things().await;
    let list = f.client.get(&path).await.expect(200);
    let query = format!(
        "{path}?labelSelector=app%3Dweb&resourceVersion={}",
        version(&list)
    );
    let mut watch = f.client.watch(&query).await;
    make(&f, &path, "a").await;
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"app": value}}});
    let at = format!("{path}/a");
    f.client
        .patch(&at, MERGE, &label(json!("web")))
        .await
        .expect(200);
    f.client
        .patch(&at, MERGE, &json!({"spec": {"x": 1}}))
        .await
        .expect(200);
    let last = f
        .client
        .patch(&at, MERGE, &label(json!("db")))
        .await
        .expect(200);
    assert_eq!(watch.brief().await, "ADDED a");
    assert_eq!(watch.brief().await, "MODIFIED a");
    let (kind, object) = watch.event().await;
    assert_eq!(kind, "DELETED");
    // Its last selected state, at the version at which it went.
    assert_eq!(object["metadata"]["labels"]["app"], "web");
    assert_eq!(version(&object), version(&last));
    f.client.delete(&at, None).await.expect(200);
    let other = f.thing("b", json!({}));
    let mut other = other;
    other["metadata"]["labels"] = json!({"app": "web"});
    f.client.post(&path, &other).await.expect(201);
    assert_eq!(watch.brief().await, "ADDED b");
}

#[tokio::test]
async fn one_object_is_watched_by_its_name() {
    let (f, path) = things().await;
    make(&f, &path, "a").await;
    let mut watch = f
        .client
        .watch(&format!("{path}?fieldSelector=metadata.name%3Db"))
        .await;
    make(&f, &path, "b").await;
    assert_eq!(watch.brief().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_with_a_bookmark() {
    let (f, path) = things().await;
    make(&f, &path, "a").await;
    let list = f.client.get(&path).await.expect(200);
    f.map("elsewhere", json!({})).await;
    let query = format!(
        "{path}?resourceVersion={}&timeoutSeconds=6&allowWatchBookmarks=true",
        version(&list)
    );
    let mut watch = f.client.watch(&query).await;
    // A real server says nothing of a watch that saw nothing.
    make(&f, &path, "b").await;
    assert_eq!(watch.brief().await, "ADDED b");
    let mut last = None;
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "BOOKMARK", "{event}");
        last = Some(event);
    }
    let last = last.expect("a bookmark");
    assert_eq!(last["object"]["kind"], "Thing");
    let number = |v: &str| v.parse::<u64>().unwrap();
    assert!(number(version(&last["object"])) >= number(version(&list)));
    // It can be gone on from.
    let mut watch = f
        .client
        .watch(&format!(
            "{path}?resourceVersion={}",
            version(&last["object"])
        ))
        .await;
    make(&f, &path, "c").await;
    assert_eq!(watch.brief().await, "ADDED c");
}

#[tokio::test]
async fn nobody_gets_bookmarks_unasked() {
    let (f, path) = things().await;
    let list = f.client.get(&path).await.expect(200);
    let query = format!("{path}?resourceVersion={}&timeoutSeconds=2", version(&list));
    let mut watch = f.client.watch(&query).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_list_is_streamed_where_asked_for() {
    let (f, path) = things().await;
    make(&f, &path, "a").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    // One before 1.32 knows no such thing; a later one may have it switched off, or an etcd that is too old for it.
    let refused = async || {
        let tried = format!("{path}?{query}&watch=true&timeoutSeconds=1");
        f.client.get(&tried).await.code == 422
    };
    if is_real() && (f.client.minor().await < 32 || refused().await) {
        println!("SKIP a_list_is_streamed_where_asked_for: the server does not do that");
        return;
    }
    let mut watch = f.client.watch(&format!("{path}?{query}")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    let (kind, object) = watch.event().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(
        object["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    make(&f, &path, "b").await;
    assert_eq!(watch.brief().await, "ADDED b");
    let wrong = f
        .client
        .get(&format!("{path}?watch=true&sendInitialEvents=true"))
        .await;
    wrong.fails(422, "Invalid");
}

#[tokio::test]
async fn a_namespaces_watch_sees_only_that_namespace() {
    let f = Fixture::new().await;
    let g = format!("{}-other", f.ns);
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": g}});
    f.client.post("/api/v1/namespaces", &body).await.expect(201);
    let list = f.client.get(&f.maps()).await.expect(200);
    let query = format!(
        "{}?resourceVersion={}&labelSelector=mine",
        f.maps(),
        version(&list)
    );
    let mut watch = f.client.watch(&query).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {"mine": "1"}}});
    f.client
        .post(&format!("/api/v1/namespaces/{g}/configmaps"), &map)
        .await
        .expect(201);
    f.map("y", json!({"labels": {"mine": "1"}})).await;
    assert_eq!(watch.brief().await, "ADDED y");
    f.client
        .delete(&format!("/api/v1/namespaces/{g}"), None)
        .await
        .expect(200);
}
