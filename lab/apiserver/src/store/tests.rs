use super::*;

fn key(name: &str) -> Key {
    Key {
        collection: Arc::from("things"),
        namespace: "ns".into(),
        name: name.into(),
    }
}

fn thing(name: &str, value: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")}, "value": value})
}

fn names(objects: &[Arc<Value>]) -> Vec<String> {
    objects
        .iter()
        .map(|o| format!("{}={}", object::name(o), o["value"]))
        .collect()
}

#[test]
fn versions_rise_and_changes_follow_a_cursor() {
    let store = Store::new(100, 10);
    store.tx(|s| {
        assert_eq!(object::version(&s.put(&key("a"), thing("a", 1))), "101");
        assert_eq!(object::version(&s.put(&key("b"), thing("b", 1))), "102");
        assert_eq!(object::version(&s.put(&key("a"), thing("a", 2))), "103");
        let gone = s.remove(&key("b"), thing("b", 1)).unwrap();
        assert_eq!(object::version(&gone), "104");
        let (changes, reached) = s.changes(&key("a").collection, 101, 10).unwrap();
        let seen: Vec<_> = changes
            .iter()
            .map(|c| (c.version, c.before.is_some(), c.deleted))
            .collect();
        assert_eq!(
            seen,
            [(102, false, false), (103, true, false), (104, true, true)]
        );
        assert_eq!(reached, 104);
        let (changes, reached) = s.changes(&key("a").collection, 101, 2).unwrap();
        assert_eq!((changes.len(), reached), (2, 103));
        assert!(s.remove(&key("b"), thing("b", 1)).is_none());
        assert_eq!(s.version(), 104);
    });
}

#[test]
fn a_cursor_below_the_floor_or_in_the_future_is_expired() {
    let store = Store::new(0, 3);
    store.tx(|s| {
        for i in 0..5 {
            s.put(&key("a"), thing("a", i));
        }
        let things = key("a").collection;
        assert_eq!(
            s.changes(&things, 1, 10).unwrap_err(),
            Expired {
                wanted: 1,
                oldest: 2
            }
        );
        assert_eq!(s.changes(&things, 2, 10).unwrap().0.len(), 3);
        assert!(s.changes(&things, 6, 10).is_err());
        // Another, quiet collection is not expired by this one's changes.
        let quiet = Arc::from("quiet");
        assert!(s.changes(&quiet, 5, 10).is_ok());
    });
}

#[test]
fn the_past_is_the_present_undone() {
    let store = Store::new(0, 100);
    store.tx(|s| {
        s.put(&key("a"), thing("a", 1));
        s.put(&key("b"), thing("b", 1));
        let then = s.version();
        s.put(&key("c"), thing("c", 1));
        s.put(&key("a"), thing("a", 2));
        s.remove(&key("b"), thing("b", 1));
        assert_eq!(names(&s.list("things", "")), ["a=2", "c=1"]);
        assert_eq!(
            names(&s.list_at("things", "ns", then).unwrap()),
            ["a=1", "b=1"]
        );
        assert!(s.list_at("things", "other", then).unwrap().is_empty());
        assert!(s.list_at("things", "", 99).is_err());
    });
}

#[test]
fn a_removed_owner_makes_its_dependents_suspect() {
    let store = Store::new(0, 100);
    store.tx(|s| {
        s.put(&key("owner"), thing("owner", 1));
        let mut child = thing("child", 1);
        child["metadata"]["ownerReferences"] = json!([{"uid": "uid-owner"}]);
        s.put(&key("child"), child);
        assert_eq!(
            s.take_suspects().into_iter().collect::<Vec<_>>(),
            [key("child")]
        );
        assert_eq!(s.dependents("uid-owner"), [key("child")]);
        s.remove(&key("owner"), thing("owner", 1));
        assert_eq!(
            s.take_suspects().into_iter().collect::<Vec<_>>(),
            [key("child")]
        );
        assert!(s.by_uid("uid-owner").is_none());
    });
}

#[test]
fn a_collections_signal_carries_its_newest_version() {
    let store = Store::new(0, 100);
    let things = key("a").collection;
    let mut signal = store.signal(&things);
    store.tx(|s| s.put(&key("a"), thing("a", 1)));
    assert!(signal.has_changed().unwrap());
    assert_eq!(*signal.borrow_and_update(), 1);
}
