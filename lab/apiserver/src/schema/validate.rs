//! Validation of a value by a schema node.

use serde_json::{Map, Value, json};

use super::{Kind, Schema, format, join, type_of};
use crate::error::Cause;

/// Adds everything that is wrong with `value` at path `at`.
pub fn check(schema: &Schema, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if !has_type(schema, value) {
        let wanted = schema.kind.map_or("integer or string", Kind::word);
        causes.push(Cause::wrong_type(shown(at), wanted, type_of(value)));
        return;
    }
    if !schema.enums.is_empty() && !schema.enums.contains(value) {
        causes.push(Cause::unsupported(shown(at), value, &schema.enums));
    }
    match value {
        Value::Object(map) => check_object(schema, value, map, at, causes),
        Value::Array(items) => check_array(schema, value, items, at, causes),
        Value::String(text) => check_string(schema, value, text, at, causes),
        Value::Number(number) => check_number(schema, value, number.as_f64(), at, causes),
        Value::Bool(_) | Value::Null => {}
    }
    check_combined(schema, value, at, causes);
}

/// The root has no path of its own.
fn shown(at: &str) -> &str {
    if at.is_empty() { "<nil>" } else { at }
}

fn has_type(schema: &Schema, value: &Value) -> bool {
    if schema.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    let whole = |v: &Value| v.as_f64().is_some_and(|f| f.fract() == 0.0);
    match schema.kind {
        None => true,
        Some(Kind::Object) => value.is_object(),
        Some(Kind::Array) => value.is_array(),
        // Debian's Kubernetes 1.20 takes an empty text for null.
        Some(Kind::String) => value.as_str().is_some_and(|text| !text.is_empty()),
        Some(Kind::Integer) => value.is_number() && whole(value),
        Some(Kind::Number) => value.is_number(),
        Some(Kind::Boolean) => value.is_boolean(),
    }
}

fn check_object(
    schema: &Schema,
    value: &Value,
    map: &Map<String, Value>,
    at: &str,
    causes: &mut Vec<Cause>,
) {
    for name in &schema.required {
        if !map.contains_key(name) {
            causes.push(Cause::required(join(at, name), ""));
        }
    }
    between(
        schema.keys,
        map.len(),
        ["at least", "at most"].map(|w| format!("should have {w} {{}} properties")),
        value,
        at,
        causes,
    );
    let root = at.is_empty();
    for (key, child) in map {
        if root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(s) = schema.child(key) {
            check(s, child, &join(at, key), causes);
        }
    }
}

fn check_array(schema: &Schema, value: &Value, items: &[Value], at: &str, causes: &mut Vec<Cause>) {
    between(
        schema.count,
        items.len(),
        ["at least", "at most"].map(|w| format!("should have {w} {{}} items")),
        value,
        at,
        causes,
    );
    let key_of = |item: &Value| -> Value {
        if schema.map_keys.is_empty() {
            return item.clone();
        }
        schema
            .map_keys
            .iter()
            .map(|k| (k.clone(), item.get(k).cloned().unwrap_or(Value::Null)))
            .collect::<Map<_, _>>()
            .into()
    };
    let keyed = schema.unique || !schema.map_keys.is_empty();
    let mut seen: Vec<Value> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if keyed {
            let key = key_of(item);
            if seen.contains(&key) {
                causes.push(Cause::duplicate(&at, &key));
            }
            seen.push(key);
        }
        if let Some(s) = &schema.items {
            check(s, item, &at, causes);
        }
    }
}

fn check_string(schema: &Schema, value: &Value, text: &str, at: &str, causes: &mut Vec<Cause>) {
    between(
        schema.length,
        text.chars().count(),
        ["at least", "at most"].map(|w| format!("should be {w} {{}} chars long")),
        value,
        at,
        causes,
    );
    if let Some(pattern) = schema.pattern.as_ref().filter(|p| !p.is_match(text)) {
        let detail = format!("{at} in body should match '{pattern}'");
        causes.push(Cause::invalid(at, value, &detail));
    }
    if !format::fits(&schema.format, text) {
        let detail = format!("{at} in body must be of type {}: {value}", schema.format);
        causes.push(Cause::invalid(at, value, &detail));
    }
}

fn check_number(
    schema: &Schema,
    value: &Value,
    number: Option<f64>,
    at: &str,
    causes: &mut Vec<Cause>,
) {
    let Some(n) = number else { return };
    let mut fail = |detail: String| {
        let detail = format!("{at} in body should be {detail}");
        causes.push(Cause::invalid(at, value, &detail));
    };
    if let Some((min, exclusive)) = schema.minimum
        && (n < min || (exclusive && n <= min))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        fail(format!("greater than{or_equal} {min}"));
    }
    if let Some((max, exclusive)) = schema.maximum
        && (n > max || (exclusive && n >= max))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        fail(format!("less than{or_equal} {max}"));
    }
    if let Some(of) = schema.multiple_of.filter(|of| n % of != 0.0) {
        fail(format!("a multiple of {of}"));
    }
    // Other integer formats are not known to Kubernetes.
    let int32 = f64::from(i32::MIN)..=f64::from(i32::MAX);
    if schema.format == "int32" && !int32.contains(&n) {
        fail("of type int32".to_owned());
    }
}

fn between(
    (min, max): (Option<u64>, Option<u64>),
    found: usize,
    [low, high]: [String; 2],
    value: &Value,
    at: &str,
    causes: &mut Vec<Cause>,
) {
    let found = found as u64;
    for (broken, bound, sentence) in [
        (min.is_some_and(|m| found < m), min, low),
        (max.is_some_and(|m| found > m), max, high),
    ] {
        if broken {
            let sentence = sentence.replace("{}", &bound.unwrap_or_default().to_string());
            let detail = format!("{at} in body {sentence}");
            causes.push(Cause::invalid(shown(at), value, &detail));
        }
    }
}

fn check_combined(schema: &Schema, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    let fits = |s: &Schema| {
        let mut found = Vec::new();
        check(s, value, at, &mut found);
        found.is_empty()
    };
    let mut fail = |rule: &str, detail: &str| {
        let detail = format!("{} in body {rule} {detail}", shown(at));
        causes.push(Cause::invalid(shown(at), &json!(null), &detail));
    };
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(fits) {
        fail("must validate at least one schema", "(anyOf)");
    }
    if !schema.one_of.is_empty() && schema.one_of.iter().filter(|s| fits(s)).count() != 1 {
        fail("must validate one and only one schema", "(oneOf)");
    }
    if schema.not.as_deref().is_some_and(fits) {
        fail("must not validate the schema", "(not)");
    }
    for s in &schema.all_of {
        check(s, value, at, causes);
    }
}
