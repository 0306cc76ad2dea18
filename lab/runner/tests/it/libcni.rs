//! What plugins get to see, in which order, and what becomes of their answers. The plugins are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tombolo_lab_runner::cni::{
    Cancel, ExecError, NetworkList, RunError, Runner, RuntimeConf, Valid,
};

/// A directory with plugins that note what they get, in `log`, before they do what their script says.
struct Bench {
    dir: TempDir,
}

const NOTE: &str = r#"#!/bin/sh
stdin=$(cat)
printf '%s\t%s\t%s\n' "${0##*/} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" "$CNI_ARGS" "$stdin" >> "${0%/*}/log"
"#;

impl Bench {
    fn new(plugins: &[(&str, &str)]) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, script) in plugins {
            bench.plugin(name, script);
        }
        bench
    }

    fn plugin(&self, name: &str, script: &str) {
        let path = self.dir.path().join(name);
        // Renamed into place: a script that is open for writing cannot be executed.
        let temporary = self.dir.path().join(format!("{name}.tmp"));
        fs::write(&temporary, format!("{NOTE}{script}\n")).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    fn runner(&self) -> Runner {
        let nowhere = PathBuf::from("/nowhere");
        Runner::new(&[nowhere, self.dir.path().to_owned()])
            .with_cache(&self.dir.path().join("cache"))
    }

    /// (who and what, args, stdin) of each call.
    fn calls(&self) -> Vec<(String, String, Value)> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let split = |line: &str| {
            let mut parts = line.splitn(3, '\t').map(str::to_owned);
            let (who, args) = (parts.next().unwrap(), parts.next().unwrap());
            (
                who,
                args,
                serde_json::from_str(&parts.next().unwrap()).unwrap(),
            )
        };
        text.lines().map(split).collect()
    }

    fn order(&self) -> Vec<String> {
        let first_two = |who: &String| who.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.calls()
            .iter()
            .map(|(who, _, _)| first_two(who))
            .collect()
    }
}

fn list(version: &str, kinds: &[&str]) -> NetworkList {
    let plugins: Vec<_> = kinds
        .iter()
        .map(|kind| json!({ "type": kind, "capabilities": { "mac": true } }))
        .collect();
    let conf = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
    NetworkList::parse(conf.to_string().as_bytes()).unwrap()
}

fn rt() -> RuntimeConf {
    RuntimeConf {
        container_id: "cid".into(),
        netns: "/some/netns".into(),
        ifname: "eth0".into(),
        args: vec![("B".into(), "2".into()), ("A".into(), "1".into())],
        capabilities: json!({ "mac": "m", "undeclared": 1 })
            .as_object()
            .unwrap()
            .clone(),
    }
}

const ONE: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/32"}]}'"#;
const TWO: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/32"}]}'"#;

#[test]
fn results_pass_forward_and_del_goes_backward() {
    let bench = Bench::new(&[("one", ONE), ("two", TWO)]);
    let (runner, list, rt) = (bench.runner(), list("1.0.0", &["one", "two"]), rt());
    let result = runner.add(&list, &rt, None).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.0.0.2/32");
    runner.check(&list, &rt).unwrap();
    runner.del(&list, &rt).unwrap();
    assert_eq!(
        bench.order(),
        [
            "one ADD",
            "two ADD",
            "one CHECK",
            "two CHECK",
            "two DEL",
            "one DEL"
        ]
    );

    let calls = bench.calls();
    assert_eq!(calls[0].0, "one ADD cid eth0 /some/netns");
    assert_eq!(calls[0].1, "B=2;A=1");
    assert_eq!(calls[0].2["runtimeConfig"], json!({ "mac": "m" }));
    assert_eq!(
        (&calls[0].2["name"], &calls[0].2["cniVersion"]),
        (&json!("net"), &json!("1.0.0"))
    );
    assert_eq!(calls[0].2.get("prevResult"), None);
    assert_eq!(calls[1].2["prevResult"]["ips"][0]["address"], "10.0.0.1/32");
    for call in &calls[2..] {
        assert_eq!(
            call.2["prevResult"], result,
            "CHECK and DEL see the last result: {}",
            call.0
        );
    }
    assert_eq!(runner.cached(&list, &rt).unwrap(), None);
    assert!(matches!(
        runner.check(&list, &rt),
        Err(RunError::NothingCached { .. })
    ));
}

#[test]
fn the_cache_holds_what_a_restarted_runtime_needs() {
    let bench = Bench::new(&[("one", ONE)]);
    let (list, rt) = (list("1.0.0", &["one"]), rt());
    bench.runner().add(&list, &rt, None).unwrap();
    let cached = bench.runner().cached(&list, &rt).unwrap().unwrap();
    assert_eq!(
        (
            cached.netns.as_str(),
            cached.if_name.as_str(),
            cached.cni_args
        ),
        ("/some/netns", "eth0", rt.args.clone())
    );
    assert_eq!(cached.config["plugins"][0]["type"], "one");

    // An unreadable entry does not stand in the way of DEL, and goes with it.
    let entry = bench.dir.path().join("cache/results/net-cid-eth0");
    fs::write(&entry, "{").unwrap();
    bench.runner().del(&list, &rt).unwrap();
    assert!(!entry.exists());
    assert_eq!(bench.calls()[1].2.get("prevResult"), None);
    // Again, with nothing left.
    bench
        .runner()
        .del(
            &list,
            &RuntimeConf {
                netns: String::new(),
                ..rt
            },
        )
        .unwrap();
    assert_eq!(bench.order(), ["one ADD", "one DEL", "one DEL"]);
}

#[test]
fn versions_decide_what_is_asked() {
    let bench = Bench::new(&[("one", ONE)]);
    let runner = bench.runner();
    let old = list("0.3.1", &["one"]);
    runner.add(&old, &rt(), None).unwrap();
    assert!(matches!(
        runner.check(&old, &rt()),
        Err(RunError::VersionTooOld {
            command: "CHECK",
            ..
        })
    ));
    runner.del(&old, &rt()).unwrap();
    assert_eq!(
        bench.calls()[1].2.get("prevResult"),
        None,
        "no prevResult on DEL before 0.4.0"
    );
    runner.status(&list("1.0.0", &["one"])).unwrap();
    runner.gc(&list("1.0.0", &["one"]), None).unwrap();
    runner.status(&list("1.1.0", &["one"])).unwrap();
    let valid = [Valid::new("cid", "eth0")];
    runner.gc(&list("1.1.0", &["one"]), Some(&valid)).unwrap();
    assert_eq!(bench.order()[2..], ["one STATUS", "one GC"]);
    let stdin = &bench.calls()[3].2;
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(
            stdin[key],
            json!([{ "containerID": "cid", "ifname": "eth0" }])
        );
    }
    runner.gc(&list("1.1.0", &["one"]), None).unwrap();
    let stdin = &bench.calls()[4].2;
    assert_eq!(stdin.get("cni.dev/valid-attachments"), None);
}

#[test]
fn gc_ends_what_is_not_listed_of_its_own_network_only() {
    let bench = Bench::new(&[("one", ONE), ("two", ONE)]);
    let runner = bench.runner();
    let network = |name: &str, version: &str| {
        let conf = json!({ "cniVersion": version, "name": name, "plugins": [{ "type": "one" }, { "type": "two" }] });
        NetworkList::parse(conf.to_string().as_bytes()).unwrap()
    };
    let attachment = |id: &str, ifname: &str| RuntimeConf {
        container_id: id.to_owned(),
        ifname: ifname.to_owned(),
        ..rt()
    };
    // Two networks in one container, and another container.
    let (blue, red) = (network("blue", "1.1.0"), network("red", "1.0.0"));
    for (list, id, ifname) in [
        (&blue, "c1", "eth0"),
        (&red, "c1", "net1"),
        (&blue, "c2", "eth0"),
    ] {
        runner.add(list, &attachment(id, ifname), None).unwrap();
    }
    fs::write(bench.dir.path().join("cache/results/garbage"), "{").unwrap();
    let left = |list: &NetworkList| -> Vec<(String, String)> {
        let all = runner.attachments(list).unwrap();
        all.into_iter()
            .map(|entry| (entry.container_id, entry.if_name))
            .collect()
    };
    let before = bench.calls().len();
    runner.gc(&blue, Some(&[Valid::new("c2", "eth0")])).unwrap();
    let order = bench.order();
    assert_eq!(order[before..], ["two DEL", "one DEL", "one GC", "two GC"]);
    assert!(bench.calls()[before].0.contains("DEL c1 eth0 /some/netns"));
    assert_eq!(left(&blue), [("c2".to_owned(), "eth0".to_owned())]);
    assert_eq!(left(&red), [("c1".to_owned(), "net1".to_owned())]);
    // Before 1.1.0 there is nothing but DEL.
    runner.gc(&red, Some(&[])).unwrap();
    assert_eq!(bench.order()[before + 4..], ["two DEL", "one DEL"]);
    assert_eq!(left(&red), []);

    let disabled =
        json!({ "cniVersion": "1.1.0", "name": "blue", "disableGC": true, "type": "one" });
    let disabled = NetworkList::parse(disabled.to_string().as_bytes()).unwrap();
    runner.gc(&disabled, Some(&[])).unwrap();
    assert_eq!(left(&blue).len(), 1);
}

#[test]
fn gc_goes_on_after_a_failure() {
    let fail = r#"[ $CNI_COMMAND = ADD ] && { echo '{}'; exit 0; }; echo '{"code":11,"msg":"later"}'; exit 1"#;
    let bench = Bench::new(&[("one", fail), ("two", ONE)]);
    let (runner, list) = (bench.runner(), list("1.1.0", &["one", "two"]));
    for id in ["a", "b"] {
        let container_id = id.to_owned();
        let rt = RuntimeConf {
            container_id,
            ..rt()
        };
        runner.add(&list, &rt, None).unwrap();
    }
    let error = runner.gc(&list, Some(&[])).unwrap_err();
    assert!(
        error.full().contains("failed (DEL): later"),
        "{}",
        error.full()
    );
    let order = bench.order();
    let dels = ["two DEL", "one DEL", "two DEL", "one DEL"];
    assert_eq!(order[4..8], dels);
    assert_eq!(order[8..], ["one GC", "two GC"]);
}

#[test]
fn a_failure_stops_add_and_says_why() {
    let fail = r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"PoolEmpty: no address","details":"d"}'; exit 1"#;
    let bench = Bench::new(&[("one", ONE), ("two", fail), ("three", ONE)]);
    let (runner, list) = (bench.runner(), list("1.0.0", &["one", "two", "three"]));
    let error = runner.add(&list, &rt(), None).unwrap_err();
    assert_eq!(error.plugin_error().unwrap().code, 11);
    assert_eq!(
        error.full(),
        r#"plugin type="two" failed (ADD): PoolEmpty: no address; d (code 11)"#
    );
    assert_eq!(bench.order(), ["one ADD", "two ADD"]);
    assert_eq!(runner.cached(&list, &rt()).unwrap(), None);
    let error = runner.del(&list, &rt()).unwrap_err();
    assert!(error.full().contains("failed (DEL)"), "{}", error.full());
    assert_eq!(
        bench.order()[2..],
        ["three DEL", "two DEL"],
        "DEL stops at the plugin that fails"
    );
}

#[test]
fn endings_that_are_no_answers() {
    let bench = Bench::new(&[
        ("silent", "echo because >&2; exit 3"),
        ("chatty", "echo hello"),
        ("killed", "kill -KILL $$"),
        ("hangs", "exec sleep 1000"),
        (
            "orphans",
            "sleep 1000 >&1 & echo $! > \"${0%/*}/orphan\"; echo '{}'",
        ),
        ("endless", "exec cat /dev/zero"),
    ]);
    let runner = bench.runner().with_timeout(Duration::from_millis(300));
    let source = |kind: &str| match runner.add(&list("1.0.0", &[kind]), &rt(), None) {
        Err(RunError::Plugin { source, .. }) => source,
        other => panic!("{kind}: {other:?}"),
    };
    assert!(
        matches!(source("silent"), ExecError::Unexplained { stderr, .. } if stderr == "because")
    );
    assert!(matches!(source("chatty"), ExecError::NotJson { output, .. } if output == "hello\n"));
    assert!(matches!(source("killed"), ExecError::Unexplained { .. }));
    assert!(matches!(source("hangs"), ExecError::TimedOut(_)));
    assert!(matches!(
        source("endless"),
        ExecError::OutputTooLong | ExecError::TimedOut(_)
    ));
    let missing = runner.add(&list("1.0.0", &["absent"]), &rt(), None);
    assert!(matches!(missing, Err(RunError::NoSuchPlugin { .. })));
    let escaping = runner.add(&list("1.0.0", &["../bin/true"]), &rt(), None);
    assert!(matches!(escaping, Err(RunError::NoSuchPlugin { .. })));

    // A grandchild that keeps stdout open does not hold the runner up.
    let result = runner
        .add(&list("1.0.0", &["orphans"]), &rt(), None)
        .unwrap();
    assert_eq!(result, json!({}));
    let orphan = fs::read_to_string(bench.dir.path().join("orphan")).unwrap();
    let orphan = rustix::process::Pid::from_raw(orphan.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(orphan, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_cancelled_call_is_killed() {
    let bench = Bench::new(&[("hangs", "exec sleep 1000")]);
    let cancel = Cancel::new().unwrap();
    let (runner, list) = (bench.runner(), list("1.0.0", &["hangs"]));
    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| runner.add(&list, &rt(), Some(&cancel)));
        cancel.pull().unwrap();
        call.join().unwrap()
    });
    assert!(
        matches!(
            outcome,
            Err(RunError::Plugin {
                source: ExecError::Cancelled,
                ..
            })
        ),
        "{outcome:?}"
    );
}

#[test]
fn large_input_and_output_do_not_block_each_other() {
    // Writes much before it reads anything.
    let bench = Bench::new(&[]);
    let script = "#!/bin/sh\nprintf '{\"x\":\"'; head -c 300000 /dev/zero | tr '\\0' a; printf '\"}'; cat > /dev/null\n";
    let path = bench.dir.path().join("big");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "big", "filler": "b".repeat(300_000) });
    let list = NetworkList::parse(conf.to_string().as_bytes()).unwrap();
    let result = bench.runner().add(&list, &rt(), None).unwrap();
    assert_eq!(result["x"].as_str().unwrap().len(), 300_000);
}
