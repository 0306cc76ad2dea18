//! Accessors on untyped objects, and what the server stamps on them: uid, times, names.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde_json::{Map, Value};

/// String at a JSON pointer, empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Array at a JSON pointer, empty where there is none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`, empty in cluster scope.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `metadata.resourceVersion`, empty where there is none.
pub fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

/// Whether deletion has begun.
pub fn deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Whether `metadata.finalizers` has entries.
pub fn has_finalizers(object: &Value) -> bool {
    !list(object, "/metadata/finalizers").is_empty()
}

/// The value as an object, replacing what is none.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// `metadata`, made where there is none.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// Child object of that name, made where there is none.
pub fn child_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    map_mut(map_mut(value).entry(name).or_insert(Value::Null))
}

/// Sets or, with `None`, removes a key.
pub fn set_or_remove(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(v) => {
            map.insert(key.to_owned(), v);
        }
        None => {
            map.remove(key);
        }
    }
}

/// A time as `metadata` has it, whole seconds.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

static RANDOM: LazyLock<(RandomState, AtomicU64)> =
    LazyLock::new(|| (RandomState::new(), AtomicU64::new(0)));

/// 64 bits nobody has to guess-proof: the keyed hash of a counter.
pub fn random() -> u64 {
    let (state, counter) = &*RANDOM;
    let mut hasher = state.build_hasher();
    hasher.write_u64(counter.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// A new uid in the shape of a version 4 UUID.
pub fn new_uid() -> String {
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | ((b >> 48) & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}

/// A name from `generateName`: at most 63 characters with a suffix of five.
pub fn generated_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bits = random();
    let mut name: String = base.chars().take(58).collect();
    for _ in 0..5 {
        let size = ALPHABET.len() as u64;
        let index = usize::try_from(bits % size).unwrap_or(0);
        name.push(char::from(ALPHABET[index]));
        bits /= size;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_differ_and_have_the_shape() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(a.as_bytes()[14], b'4');
    }

    #[test]
    fn generated_names_keep_the_limit() {
        let name = generated_name(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert_ne!(generated_name("a-"), generated_name("a-"));
    }
}
