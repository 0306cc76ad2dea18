//! Custom resources: schema, status subresource, generation.

use serde_json::{Value, json};

use crate::client::MERGE;
use crate::fixture::{Fixture, is_like_1_20, open_schema, version};

fn schema() -> Value {
    json!({
        "type": "object", "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object", "required": ["node"],
                "properties": {
                    "node": {"type": "string", "minLength": 1},
                    "index": {"type": "integer", "minimum": 0, "maximum": 15},
                    "mode": {"type": "string", "enum": ["veth", "trunk"], "default": "veth"},
                    "addresses": {"type": "array", "items": {"type": "string"}},
                    "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
                },
            },
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        },
    })
}

fn fields(status: &Value) -> Vec<String> {
    let mut fields: Vec<String> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{} {}",
                c["field"].as_str().unwrap(),
                c["reason"].as_str().unwrap()
            )
        })
        .collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn defaults_are_filled_and_unknown_fields_dropped() {
    let f = Fixture::new().await;
    let path = f.define(schema(), json!({})).await;
    let body = f.thing("a", json!({"node": "n", "alien": 1, "limits": {"x": 1}}));
    let made = f.client.post(&path, &body).await.expect(201);
    assert_eq!(
        made["spec"],
        json!({"node": "n", "mode": "veth", "limits": {"x": 1}})
    );
}

#[tokio::test]
async fn broken_fields_are_named() {
    let f = Fixture::new().await;
    let path = f.define(schema(), json!({})).await;
    let post = async |spec| {
        f.client
            .post(&path, &f.thing("a", spec))
            .await
            .fails(422, "Invalid")
    };
    let missing = post(json!({})).await;
    assert_eq!(fields(&missing), ["spec.node FieldValueRequired"]);
    assert_eq!(missing["details"]["kind"], "Thing");
    assert_eq!(missing["details"]["name"], "a");
    let many = post(json!({"node": "n", "index": 16, "mode": "x"})).await;
    assert_eq!(
        fields(&many),
        [
            "spec.index FieldValueInvalid",
            "spec.mode FieldValueNotSupported"
        ]
    );
    let message = many["message"].as_str().unwrap();
    assert!(
        message.starts_with("Thing.") && message.contains("spec.mode: Unsupported value"),
        "{message}"
    );
    for spec in [
        json!({"node": 7}),
        json!({"node": "n", "addresses": "x"}),
        json!({"node": "n", "limits": {"x": "y"}}),
    ] {
        let refused = post(spec).await;
        let field = refused["details"]["causes"][0]["field"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(field.starts_with("spec."), "{field}");
    }
    f.client
        .post(&path, &f.thing("a", json!({"node": "n"})))
        .await
        .expect(201);
    let broken = json!({"spec": {"index": -1}});
    let refused = f
        .client
        .patch(&format!("{path}/a"), MERGE, &broken)
        .await
        .fails(422, "Invalid");
    assert_eq!(fields(&refused), ["spec.index FieldValueInvalid"]);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let f = Fixture::new().await;
    let path = f.define(schema(), json!({})).await;
    let mut body = f.thing("a", json!({"node": "n"}));
    body["status"] = json!({"phase": "Made"});
    let made = f.client.post(&path, &body).await.expect(201);
    assert!(made.get("status").is_none(), "a creation carries no status");
    assert_eq!(made["metadata"]["generation"], 1);
    let at = format!("{path}/a");
    let sub = format!("{at}/status");
    // The status endpoint takes only the status.
    let patch = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"node": "other"}, "status": {"phase": "Up"}});
    let patched = f.client.patch(&sub, MERGE, &patch).await.expect(200);
    assert_eq!(patched["status"]["phase"], "Up");
    assert_eq!(patched["spec"]["node"], "n");
    assert!(patched["metadata"].get("labels").is_none());
    assert_eq!(patched["metadata"]["generation"], 1);
    // The other takes all but the status.
    let patched = f.client.patch(&at, MERGE, &patch).await.expect(200);
    assert_eq!(patched["spec"]["node"], "other");
    assert_eq!(patched["metadata"]["generation"], 2);
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    let only = json!({"status": {"phase": "Down"}});
    let same = f.client.patch(&at, MERGE, &only).await.expect(200);
    assert_eq!(same["status"]["phase"], "Up");
    assert_eq!(version(&same), version(&patched));
    let label = json!({"metadata": {"labels": {"x": "z"}}});
    let labelled = f.client.patch(&at, MERGE, &label).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    // By replace too, with the version checked.
    let mut next = labelled.clone();
    next["status"]["phase"] = json!("Gone");
    next["spec"]["node"] = json!("ignored");
    let replaced = f.client.put(&sub, &next).await.expect(200);
    assert_eq!(
        (
            replaced["status"]["phase"].as_str(),
            replaced["spec"]["node"].as_str()
        ),
        (Some("Gone"), Some("other"))
    );
    f.client.put(&sub, &next).await.fails(409, "Conflict");
    let got = f.client.get(&sub).await.expect(200);
    assert_eq!(got["status"]["phase"], "Gone");
    next["metadata"] = json!({"name": "a"});
    let blind = f.client.put(&at, &next).await.fails(422, "Invalid");
    assert_eq!(
        fields(&blind),
        ["metadata.resourceVersion FieldValueInvalid"]
    );
}

#[tokio::test]
async fn without_the_subresource_status_is_like_any_field() {
    let f = Fixture::new().await;
    let path = f.define(schema(), json!({"subresources": {}})).await;
    let mut body = f.thing("a", json!({"node": "n"}));
    body["status"] = json!({"phase": "Made"});
    let made = f.client.post(&path, &body).await.expect(201);
    assert_eq!(made["status"]["phase"], "Made");
    let patch = json!({"status": {"phase": "Up"}});
    let patched = f
        .client
        .patch(&format!("{path}/a"), MERGE, &patch)
        .await
        .expect(200);
    assert_eq!(patched["metadata"]["generation"], 2);
    let sub = f
        .client
        .patch(&format!("{path}/a/status"), MERGE, &patch)
        .await;
    assert_eq!(sub.code, 404, "{}", sub.body);
}

#[tokio::test]
async fn conditions_must_match_their_schema() {
    let f = Fixture::new().await;
    let condition = json!({
        "type": "object", "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string", "minLength": 1}, "message": {"type": "string"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let status = json!({"type": "object", "properties": {"conditions": {"type": "array", "items": condition}}});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}, "status": status,
    }});
    let path = f.define(schema, json!({})).await;
    f.client
        .post(&path, &f.thing("a", json!({})))
        .await
        .expect(201);
    let sub = format!("{path}/a/status");
    let whole = json!({
        "type": "Ready", "status": "True", "reason": "Said", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00.123456789Z",
    });
    let empty_is_refused = is_like_1_20(&f.client).await;
    for (field, value, at) in [
        ("status", json!("yes"), "status.conditions.status"),
        ("reason", json!(""), "status.conditions.reason"),
        (
            "lastTransitionTime",
            json!("now"),
            "status.conditions.lastTransitionTime",
        ),
        ("message", json!(null), "status.conditions"),
        ("message", json!(""), "status.conditions.message"),
    ] {
        if (field, &value) == ("message", &json!("")) && !empty_is_refused {
            continue;
        }
        let mut condition = whole.clone();
        condition[field] = value;
        let patch = json!({"status": {"conditions": [condition]}});
        let refused = f
            .client
            .patch(&sub, MERGE, &patch)
            .await
            .fails(422, "Invalid");
        let fields = fields(&refused).join(" ").replace("[0]", "");
        assert!(fields.contains(at), "{field}: {refused}");
    }
    let patch = json!({"status": {"conditions": [whole]}});
    f.client.patch(&sub, MERGE, &patch).await.expect(200);
}

#[tokio::test]
async fn an_empty_text_is_no_default() {
    let f = Fixture::new().await;
    if !is_like_1_20(&f.client).await {
        println!("SKIP an_empty_text_is_no_default: the server is newer than 1.20");
        return;
    }
    let group = format!("{}.lab.tombolo.dev", f.ns);
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"x": {"type": "string", "default": ""}}},
    }});
    let body = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let refused = f
        .client
        .post(definitions, &body)
        .await
        .fails(422, "Invalid");
    let fields = fields(&refused);
    assert!(
        fields
            .iter()
            .any(|at| at.contains("default FieldValueInvalid")),
        "{refused}"
    );
}

#[tokio::test]
async fn definitions_say_when_they_are_served() {
    let f = Fixture::new().await;
    f.define(open_schema(), json!({})).await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let name = format!("things.{}.lab.tombolo.dev", f.ns);
    let condition = |made: &Value, kind: &str| {
        let all = made["status"]["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap()["status"].clone()
    };
    let mut made = f.client.get(&format!("{path}/{name}")).await.expect(200);
    // A real server begins to serve a kind a moment before it says so.
    let since = format!("{path}?resourceVersion={}", version(&made));
    let mut watch = f.client.watch(&since).await;
    while condition(&made, "Established") != "True" {
        made = watch.until("MODIFIED", &name).await;
    }
    assert_eq!(condition(&made, "NamesAccepted"), "True");
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "ThingList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let broken = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "wrong"},
        "spec": {"group": "x.io", "scope": "Cluster", "names": {"plural": "xs", "kind": "X"}, "versions": []},
    });
    let refused = f.client.post(path, &broken).await.fails(422, "Invalid");
    assert!(
        fields(&refused).contains(&"metadata.name FieldValueInvalid".to_owned()),
        "{refused}"
    );
}
