//! The client library of operator and agent: watcher, pages, replace with versions, status patches, events.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event as Watched};
use kube::{Client, Config, Resource, ResourceExt};
use tombolo_lab_apiserver::Args;

use crate::fixture::Fixture;

fn client(f: &Fixture) -> Client {
    let mut config = Config::new(f.client.url.parse().unwrap());
    // By default a 503 is tried again for minutes before anybody hears of it.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(BTreeMap::from([("mine".into(), "1".into())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("k".into(), value.into())])),
        ..ConfigMap::default()
    }
}

/// What a watcher told, briefly.
async fn next<S>(stream: &mut S) -> String
where
    S: futures::Stream<Item = watcher::Result<Watched<ConfigMap>>> + Unpin,
{
    match stream.next().await.unwrap() {
        Ok(Watched::Init) => "init".into(),
        Ok(Watched::InitApply(o)) => format!("init {}", o.name_any()),
        Ok(Watched::InitDone) => "done".into(),
        Ok(Watched::Apply(o)) => format!("apply {}", o.name_any()),
        Ok(Watched::Delete(o)) => format!("delete {}", o.name_any()),
        Err(e) => format!("error {e}"),
    }
}

async fn follow(f: &Fixture, config: watcher::Config) {
    let maps: Api<ConfigMap> = Api::namespaced(client(f), &f.ns);
    let post = PostParams::default();
    for name in ["a", "b", "c"] {
        maps.create(&post, &map(name, "1")).await.unwrap();
    }
    let mut stream = watcher::watcher(maps.clone(), config.labels("mine")).boxed();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "done") {
        seen.push(next(&mut stream).await);
    }
    assert_eq!(seen, ["init", "init a", "init b", "init c", "done"]);
    maps.create(&post, &map("d", "1")).await.unwrap();
    assert_eq!(next(&mut stream).await, "apply d");
    let change = serde_json::json!({"data": {"k": "2"}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    assert_eq!(next(&mut stream).await, "apply a");
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut stream).await, "delete b");
}

#[tokio::test]
async fn a_watcher_lists_in_pages_and_follows() {
    let f = Fixture::new().await;
    follow(&f, watcher::Config::default().page_size(2)).await;
}

#[tokio::test]
async fn a_watcher_streams_its_list() {
    // A real server needs 1.32 for that; the raw test in `watches` says so.
    let f = Fixture::local(Args::default()).await;
    follow(&f, watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_watcher_survives_an_outage_and_an_expired_version() {
    let f = Fixture::local(Args {
        history: 2,
        ..Args::default()
    })
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&f), &f.ns);
    maps.create(&PostParams::default(), &map("a", "1"))
        .await
        .unwrap();
    let mut stream =
        watcher::watcher(maps.clone(), watcher::Config::default().labels("mine")).boxed();
    while next(&mut stream).await != "done" {}
    // Watches end; before they are back, more changes than the history keeps.
    f.client
        .post("/lab/v1/pause?seconds=3600", &serde_json::json!({}))
        .await
        .expect(200);
    let refused = next(&mut stream).await;
    assert!(refused.starts_with("error"), "{refused}");
    f.client
        .post("/lab/v1/pause?seconds=0", &serde_json::json!({}))
        .await
        .expect(200);
    for i in 0..5 {
        f.map(&format!("x{i}"), serde_json::json!({})).await;
    }
    maps.create(&PostParams::default(), &map("z", "1"))
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "done") {
        seen.push(next(&mut stream).await);
    }
    assert!(
        seen.contains(&"init z".to_owned()) && seen.contains(&"init a".to_owned()),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .any(|s| s.contains("Expired") || s.contains("too old")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn replace_checks_the_version() {
    let f = Fixture::new().await;
    let leases: Api<Lease> = Api::namespaced(client(&f), &f.ns);
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some("leader".into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some("a".into()),
            ..LeaseSpec::default()
        }),
    };
    let post = PostParams::default();
    let made = leases.create(&post, &lease).await.unwrap();
    let taken = leases.create(&post, &lease).await.unwrap_err();
    assert!(
        matches!(&taken, kube::Error::Api(s) if s.is_already_exists()),
        "{taken}"
    );
    let mut mine = made.clone();
    mine.spec.as_mut().unwrap().holder_identity = Some("b".into());
    leases.replace("leader", &post, &mine).await.unwrap();
    let stale = leases.replace("leader", &post, &mine).await.unwrap_err();
    assert!(
        matches!(&stale, kube::Error::Api(s) if s.is_conflict()),
        "{stale}"
    );
    assert!(leases.get_opt("nobody").await.unwrap().is_none());
}

#[tokio::test]
async fn lists_page_by_page() {
    let f = Fixture::new().await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&f), &f.ns);
    for i in 0..5 {
        let name = format!("m{i}");
        maps.create(&PostParams::default(), &map(&name, "1"))
            .await
            .unwrap();
    }
    let mut params = ListParams::default().labels("mine").limit(2);
    let mut seen = Vec::new();
    loop {
        let page = maps.list(&params).await.unwrap();
        seen.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4"]);
    let gone = maps
        .delete_collection(
            &DeleteParams::default(),
            &ListParams::default().labels("mine"),
        )
        .await
        .unwrap();
    assert_eq!(gone.left().unwrap().items.len(), 5);
}

#[tokio::test]
async fn events_are_recorded() {
    let f = Fixture::new().await;
    let client = client(&f);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &f.ns);
    let made = maps
        .create(&PostParams::default(), &map("a", "1"))
        .await
        .unwrap();
    let recorder = Recorder::new(client.clone(), Reporter::from("tombolo-test"));
    let event = Event {
        type_: EventType::Warning,
        reason: "SubnetFull".into(),
        note: Some("0 of 250 addresses left".into()),
        action: "Assign".into(),
        secondary: None,
    };
    let about = made.object_ref(&());
    recorder.publish(&event, &about).await.unwrap();
    // The same again becomes a series of one event.
    recorder.publish(&event, &about).await.unwrap();
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client, &f.ns);
    let params = ListParams::default().fields("involvedObject.name=a");
    let found = events.list(&params).await.unwrap().items;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].message.as_deref(), Some("0 of 250 addresses left"));
    assert_eq!(found[0].series.as_ref().and_then(|s| s.count), Some(2));
}

#[tokio::test]
async fn custom_resources_as_dynamic_objects() {
    let f = Fixture::new().await;
    f.define(crate::fixture::open_schema(), serde_json::json!({}))
        .await;
    let client = client(&f);
    let group = format!("{}.lab.tombolo.dev", f.ns);
    let found = kube::discovery::group(&client, &group).await.unwrap();
    let (resource, capabilities) = found.recommended_kind("Thing").unwrap();
    assert!(capabilities.supports_operation("watch"));
    let things: Api<kube::api::DynamicObject> = Api::namespaced_with(client, &f.ns, &resource);
    let object =
        kube::api::DynamicObject::new("a", &resource).data(serde_json::json!({"spec": {"x": 1}}));
    things
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    let status = serde_json::json!({"status": {"phase": "Up"}});
    things
        .patch_status("a", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let stream = watcher::watcher(things, watcher::Config::default());
    let first: Vec<_> = stream.boxed().take(3).try_collect().await.unwrap();
    let seen = first
        .iter()
        .any(|e| matches!(e, Watched::InitApply(o) if o.data["status"]["phase"] == "Up"));
    assert!(seen, "{first:?}");
}
