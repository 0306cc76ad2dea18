use serde_json::json;

use super::*;

fn schema(properties: Value) -> Schema {
    let root = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    Schema::parse(&root, "").unwrap()
}

fn fields(schema: &Schema, spec: Value) -> Vec<String> {
    let object =
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "spec": spec});
    let causes = schema.check(&object);
    causes
        .into_iter()
        .map(|c| format!("{} {}", c.field, c.reason))
        .collect()
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let s = schema(json!({
        "known": {"type": "string"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
    }));
    let mut object = json!({
        "apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x", "labels": {"any": "thing"}}, "other": 1,
        "spec": {"known": "a", "alien": 1, "open": {"x": {"y": 1}}, "map": {"k": {"a": 1, "b": 1}}, "list": [{"b": 1}]},
    });
    let unknown = s.prune(&mut object);
    assert_eq!(
        unknown,
        ["other", "spec.alien", "spec.list[0].b", "spec.map.k.b"]
    );
    assert_eq!(
        object["spec"],
        json!({"known": "a", "open": {"x": {"y": 1}}, "map": {"k": {"a": 1}}, "list": [{}]})
    );
    assert_eq!(object["metadata"]["labels"]["any"], "thing");
}

#[test]
fn defaults_fill_what_is_absent_or_null() {
    let s = schema(json!({
        "n": {"type": "integer", "default": 3},
        "maybe": {"type": "string", "nullable": true, "default": "d"},
        "inner": {"type": "object", "default": {}, "properties": {"x": {"type": "boolean", "default": true}}},
    }));
    let mut object = json!({"spec": {"n": null, "maybe": null}});
    s.fill(&mut object);
    assert_eq!(
        object["spec"],
        json!({"n": 3, "maybe": null, "inner": {"x": true}})
    );
}

#[test]
fn broken_values_are_named_by_field() {
    let s = schema(json!({
        "need": {"type": "object", "required": ["a"]},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
        "small": {"type": "integer", "format": "int32"},
        "word": {"type": "string", "enum": ["a", "b"]},
        "id": {"type": "string", "pattern": "^i-[0-9]+$", "maxLength": 5},
        "ip": {"type": "string", "format": "ipv4"},
        "port": {"x-kubernetes-int-or-string": true},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}},
        "one": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        "null": {"type": "string", "nullable": true},
    }));
    assert_eq!(
        fields(
            &s,
            json!({
                "need": {"a": 1}, "n": 5, "small": 1, "word": "a", "id": "i-1", "ip": "10.0.0.1", "port": "http",
                "set": ["a", "b"], "map": [{"k": 1}, {"k": 2}], "one": 1, "null": null,
            })
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        fields(
            &s,
            json!({
                "need": {}, "n": 10, "small": 3_000_000_000_u64, "word": "c", "id": "x-1234567", "ip": "::1", "port": 1.5,
                "set": ["a", "a"], "map": [{"k": 1}, {"k": 1}], "one": true, "null": 1,
            })
        ),
        [
            "spec.id FieldValueInvalid",
            "spec.id FieldValueInvalid",
            "spec.ip FieldValueInvalid",
            "spec.map[1] FieldValueDuplicate",
            "spec.n FieldValueInvalid",
            "spec.need.a FieldValueRequired",
            "spec.null FieldValueTypeInvalid",
            "spec.one FieldValueInvalid",
            "spec.port FieldValueTypeInvalid",
            "spec.set[1] FieldValueDuplicate",
            "spec.small FieldValueInvalid",
            "spec.word FieldValueNotSupported",
        ]
    );
}

#[test]
fn broken_schemas_are_refused() {
    let bad_type = Schema::parse(&json!({"properties": {"a": {"type": "text"}}}), "s").unwrap_err();
    assert_eq!(bad_type.field, "s.properties[a].type");
    let bad_pattern = Schema::parse(&json!({"items": {"pattern": "("}}), "s").unwrap_err();
    assert_eq!(bad_pattern.field, "s.items.pattern");
}
