//! The shipped agent, killed before and after each of its writes. The next start must leave journal, kernel and pool of one
//! mind, nothing of what was not promised, all of what was, and ADD and DEL must work again.
//!
//! Every test takes the points of its operations from the program itself; a point that its steps do not reach fails it.
//! Those of `object` need an API server and are in the lab's tests; those of `conf` are in `conflist.rs`.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::bed::{Bed, Pod, in_netns, ip, ip_json, orders, points, possible, wait_until};
use crate::notes::leave;

/// Addresses a NIC: enough that none is waited for while others rest.
const ADDRESSES: u8 = 20;
/// Operations with a test here, and those with one in the lab.
const HERE: [&str; 15] = [
    "add",
    "undo",
    "del",
    "reap",
    "rest",
    "note",
    "file",
    "start",
    "spec",
    "scrub",
    "repair",
    "mtu",
    "uninstall",
    "conf",
    "object",
];

#[test]
fn every_failpoint_belongs_to_an_operation_that_is_tested() {
    let points = points();
    assert!(points.len() > 40, "{points:?}");
    for point in &points {
        let operation = point.split('.').next().unwrap();
        assert!(HERE.contains(&operation), "{point} is in no test");
        let same = points.iter().filter(|other| *other == point).count();
        assert_eq!(same, 1, "{point} is there twice");
    }
}

/// Host ports, one of UDP: some writes are made for those only.
fn with_ports(pod: Pod) -> Pod {
    pod.with_port("tcp", "", (8000, 80))
        .with_port("udp", "10.77.0.10", (53, 53))
}

/// Serves a pod from its beginning to its end, after whatever came before.
async fn serves(bed: &Bed, pod: &Pod, clean: &Value) {
    let made = bed
        .add(pod)
        .await
        .unwrap_or_else(|failure| panic!("{}: {failure:?}", pod.id));
    assert_eq!(bed.check(pod, &made).await, None);
    bed.agree(1);
    let on_primary = made.addresses[0].cidr.starts_with("10.77.0.");
    let (v4, v6) = if on_primary {
        ("10.77.0.1", "fd77:0::1")
    } else {
        ("10.77.1.1", "fd77:1::1")
    };
    assert!(pod.reaches(v4) && pod.reaches(v6), "{}", pod.id);
    assert_eq!(bed.del(pod, true).await, None);
    assert!(!pod.has_interface());
    bed.agree(0);
    assert_eq!(&bed.kernel(), clean, "after DEL of {}", pod.id);
}

/// Nothing was lost: every address is free in the end.
fn all_free(bed: &Bed) {
    let all = u64::from(ADDRESSES) * 2;
    wait_until("all addresses are free", || {
        let counts = &bed.state()["pool"]["counts"];
        ["IPv4", "IPv6"]
            .iter()
            .all(|family| counts[family]["free"] == all)
    });
}

async fn killed_in_add(orders: Vec<String>) {
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    for order in orders {
        bed.kill();
        bed.start_doomed(&order);
        let pod = with_ports(bed.pod(&order.replace(['.', '@'], "-")));
        let mut client = bed.client().await;
        let answer = client.add_network(pod.add_request()).await;
        assert!(answer.is_err(), "{order}: {answer:?}");
        bed.killed(&order);
        bed.start(&[]);
        // What the journal promised stands; nobody was told of the rest.
        let promised = order == "add.journal-ready.after";
        bed.agree(usize::from(promised));
        if !promised {
            assert_eq!(bed.kernel(), clean, "{order}");
            assert!(!pod.has_interface(), "{order}");
        }
        serves(&bed, &pod, &clean).await;
    }
    all_free(&bed);
}

#[tokio::test]
async fn killed_at_every_write_of_add() {
    if possible("killed_at_every_write_of_add") {
        // Those that need something left behind have tests of their own.
        let own = [
            "add.doom-stale.",
            "add.stale-route.",
            "add.route-again.",
            "add.lookup-rule.",
        ];
        let mut orders = orders("add");
        orders.retain(|order| !own.iter().any(|prefix| order.starts_with(prefix)));
        killed_in_add(orders).await;
    }
}

#[tokio::test]
async fn killed_while_a_file_is_written() {
    if possible("killed_while_a_file_is_written") {
        let mut all = orders("file");
        // The second one of an ADD.
        all.extend(orders("file").iter().map(|order| format!("{order}@2")));
        killed_in_add(all).await;
    }
}

/// The journal lost the key, its link is still there, and the runtime asks for it in another namespace.
#[tokio::test]
async fn killed_while_a_stale_link_makes_room() {
    if !possible("killed_while_a_stale_link_makes_room") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    for when in ["before", "after"] {
        let order = format!("add.doom-stale.{when}");
        let stale = bed.pod(&format!("stale-{when}"));
        bed.add(&stale).await.unwrap();
        bed.kill();
        let journal = bed.run_dir().join("journal");
        std::fs::remove_dir_all(&journal).unwrap();
        bed.start_doomed(&order);
        let pod = bed.pod(&format!("anew-{when}")).under(&stale.id);
        let mut client = bed.client().await;
        let answer = client.add_network(pod.add_request()).await;
        assert!(answer.is_err(), "{order}: {answer:?}");
        bed.killed(&order);
        bed.start(&[]);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        serves(&bed, &pod, &clean).await;
        assert!(!stale.has_interface());
    }
    all_free(&bed);
}

/// Packets for the pod would go elsewhere: routes that carry our mark, and the rule is flushed. Nobody but ADD sees to it.
#[tokio::test]
async fn killed_while_what_leads_elsewhere_makes_room() {
    if !possible("killed_while_what_leads_elsewhere_makes_room") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let clean = bed.kernel();
    let addresses = ["10.77.0.100", "10.77.1.100", "fd77::100", "fd77:1::100"];
    for order in ["stale-route", "route-again", "lookup-rule"]
        .iter()
        .flat_map(|point| ["before", "after"].map(|when| format!("add.{point}.{when}")))
    {
        bed.kill();
        bed.start(&["--failpoint", &order, "--debounce-ms", "600000"]);
        for ip_ in addresses {
            let family = if ip_.contains(':') { "-6" } else { "-4" };
            let garbage = format!("{ip_} dev eth1 table 990 proto 116 metric 7");
            ip(&bed.node, &format!("{family} route add {garbage}"));
        }
        for family in ["-4", "-6"] {
            ip(&bed.node, &format!("{family} rule del priority 512"));
        }
        let pod = bed.pod(&order.replace('.', "-"));
        let answer = bed.client().await.add_network(pod.add_request()).await;
        assert!(answer.is_err(), "{order}: {answer:?}");
        bed.killed(&order);
        bed.start(&[]);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        assert!(!pod.has_interface(), "{order}");
        serves(&bed, &pod, &clean).await;
    }
}

/// An ADD that fails before it touched anything: the interface name is taken by somebody else's.
#[tokio::test]
async fn killed_while_an_add_is_undone() {
    if !possible("killed_while_an_add_is_undone") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    for order in orders("undo") {
        bed.kill();
        bed.start_doomed(&order);
        let pod = bed.pod(&order.replace('.', "-"));
        ip(&pod.netns, "link add eth0 type veth peer name other");
        let mut client = bed.client().await;
        let answer = client.add_network(pod.add_request()).await;
        assert!(answer.is_err(), "{order}: {answer:?}");
        bed.killed(&order);
        bed.start(&[]);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        assert!(pod.has_interface(), "{order}: a foreign link was removed");
        ip(&pod.netns, "link del eth0");
        serves(&bed, &pod, &clean).await;
    }
    all_free(&bed);
}

#[tokio::test]
async fn killed_at_every_write_of_del_and_of_what_follows() {
    if !possible("killed_at_every_write_of_del") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    let mut all = [orders("del"), orders("reap"), orders("rest")].concat();
    // It needs something left behind and has a test of its own.
    all.retain(|order| !order.starts_with("reap.sources."));
    // One family noted, the other not.
    all.extend(["reap.cool.before@2", "rest.over.before@2"].map(str::to_owned));
    for order in all {
        if order.starts_with("rest.") {
            // What rests already would end the next agent at its start.
            all_free(&bed);
        }
        bed.kill();
        bed.start_doomed(&order);
        let pod = with_ports(bed.pod(&order.replace(['.', '@'], "-")));
        bed.add(&pod).await.unwrap();
        let request = pod.del_request();
        // What is in the background ends the agent after its answer.
        drop(bed.client().await.del_network(request).await);
        bed.killed(&order);
        bed.start(&[]);
        // The runtime repeats what got no answer.
        assert_eq!(bed.del(&pod, true).await, None);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        assert!(!pod.has_interface(), "{order}");
        serves(&bed, &pod, &clean).await;
    }
    all_free(&bed);
}

/// DEL could not remove the source element: it comes back while the agent stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_a_source_that_is_left_goes() {
    if !possible("killed_while_a_source_that_is_left_goes") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    for when in ["before", "after"] {
        let order = format!("reap.sources.{when}");
        bed.kill();
        let stop = "reap.delete-links.before=stop";
        let quiet = ["--debounce-ms", "600000"];
        bed.start(&[
            "--failpoint",
            stop,
            "--failpoint",
            &order,
            quiet[0],
            quiet[1],
        ]);
        let pod = bed.pod(&order.replace('.', "-"));
        let made = bed.add(&pod).await.unwrap();
        let request = pod.del_request();
        let mut client = bed.client().await;
        let caller = tokio::spawn(async move { client.del_network(request).await });
        bed.stopped();
        let cidr = &made.addresses[0].cidr;
        let element = format!(
            "{{ {:?} . {} : 0x0b010000 }}",
            made.host_ifname,
            cidr.split('/').next().unwrap()
        );
        let add = ["add", "element", "inet", "tombolo", "pods4", &element];
        in_netns(&bed.node, "nft", &add);
        bed.go_on();
        bed.killed(&order);
        drop(caller.await.unwrap());
        bed.start(&[]);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        serves(&bed, &pod, &clean).await;
    }
    all_free(&bed);
}

/// Notes of the plugin: one of a pod, and one that is none.
#[tokio::test]
async fn killed_while_it_catches_up_with_notes() {
    if !possible("killed_while_it_catches_up_with_notes") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    let mut quarantined = 0;
    for order in orders("note") {
        let pod = bed.pod(&order.replace('.', "-"));
        bed.add(&pod).await.unwrap();
        bed.kill();
        leave(&bed, &pod.id);
        let garbage = bed.run_dir().join("pending-del/garbage.json");
        std::fs::write(garbage, b"{").unwrap();
        quarantined += 1;
        bed.launch(&["--failpoint", &order]);
        bed.killed(&order);
        bed.start(&[]);
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        let count = |name: &str| std::fs::read_dir(bed.run_dir().join(name)).unwrap().count();
        wait_until("the notes are gone", || count("pending-del") == 0);
        assert_eq!(count("quarantine"), quarantined, "{order}");
        serves(&bed, &pod, &clean).await;
    }
    all_free(&bed);
}

#[tokio::test]
async fn killed_at_every_write_of_a_start() {
    if !possible("killed_at_every_write_of_a_start") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let keeper = bed.pod("keeper");
    let made = bed.add(&keeper).await.unwrap();
    let clean = bed.kernel();
    let mut quarantined = 0;
    for order in [orders("start"), orders("spec"), orders("scrub")].concat() {
        let victim = bed.pod(&order.replace('.', "-"));
        let gone = bed.add(&victim).await.unwrap();
        bed.kill();
        ip(&bed.node, &format!("link del {}", gone.host_ifname));
        let garbage = bed.run_dir().join("journal/garbage.json");
        std::fs::write(garbage, b"{\"version\": 1, \"key\"").unwrap();
        quarantined += 1;
        std::fs::write(bed.run_dir().join("journal/half.tmp"), b"{").unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bed.run_dir(), open).unwrap();
        let seconds = bed.spec["profile"]["pool"]["churnWindowSeconds"].as_u64();
        bed.spec["profile"]["pool"]["churnWindowSeconds"] = json!(seconds.unwrap() + 1);
        bed.write_spec();
        bed.launch(&["--failpoint", &order]);
        bed.killed(&order);
        bed.start(&[]);
        bed.agree(1);
        assert_eq!(bed.kernel(), clean, "{order}");
        assert_eq!(bed.add(&keeper).await.unwrap(), made, "{order}");
        let set_aside = std::fs::read_dir(bed.run_dir().join("quarantine")).unwrap();
        assert_eq!(set_aside.count(), quarantined, "{order}");
        let mode = bed.run_dir().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{order}");
        let kept = std::fs::read(bed.run_dir().join("nrs.json")).unwrap();
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        let pool = &bed.spec["profile"]["pool"];
        assert_eq!(
            kept["spec"]["profile"]["pool"]["churnWindowSeconds"], pool["churnWindowSeconds"],
            "{order}"
        );
    }
    assert_eq!(bed.del(&keeper, true).await, None);
    bed.agree(0);
    all_free(&bed);
}

#[tokio::test]
async fn killed_at_every_write_of_a_repair() {
    if !possible("killed_at_every_write_of_a_repair") {
        return;
    }
    for order in orders("repair") {
        let mut bed = Bed::new(2);
        let settings = Settings::of(&bed);
        let bare = bed.kernel();
        plant_leftover(&bed);
        // The kernel's own, which asks a table that is empty.
        ip(&bed.node, "-4 rule del priority 32767");
        // The first start wires the node: most of what a repair can do.
        let on_first_start = !["neighbour", "nft-element", "stale-udp"]
            .iter()
            .any(|kind| order.starts_with(&format!("repair.{kind}.")));
        if on_first_start {
            bed.launch(&["--failpoint", &order]);
            bed.killed(&order);
        }
        bed.start(&[]);
        let clean = bed.kernel();
        let pod = with_ports(bed.pod("a"));
        let made = bed.add(&pod).await.unwrap();
        let before = bed.kernel();
        if !on_first_start {
            bed.kill();
            ip(
                &bed.node,
                &format!("neigh del 10.77.0.100 dev {}", made.host_ifname),
            );
            let flush = ["flush", "map", "inet", "tombolo", "pods4"];
            in_netns(&bed.node, "nft", &flush);
            let flush = ["flush", "map", "inet", "tombolo-hostports", "ports4at"];
            in_netns(&bed.node, "nft", &flush);
            bed.launch(&["--failpoint", &order]);
            bed.killed(&order);
            bed.start(&[]);
        }
        assert_eq!(bed.kernel(), before, "{order}");
        bed.agree(1);
        assert_eq!(bed.add(&pod).await.unwrap(), made, "{order}");
        serves(&bed, &pod, &clean).await;
        // The settings that the first agent found, not those that it left half made.
        bed.kill();
        bed.uninstall();
        assert_eq!(Settings::of(&bed), settings, "{order}");
        assert_eq!(bed.kernel(), bare, "{order}");
    }
}

/// A rule with our mark, of a shape that no build of today writes.
fn plant_leftover(bed: &Bed) {
    let rule = "rule add priority 100 to 10.77.0.100 lookup 1001 protocol 116";
    ip(&bed.node, rule);
}

#[tokio::test]
async fn killed_while_a_pod_follows_an_mtu() {
    if !possible("killed_while_a_pod_follows_an_mtu") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&[]);
    let clean = bed.kernel();
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    for (order, mtu) in orders("mtu").iter().zip((1300_u32..).step_by(10)) {
        bed.kill();
        bed.start_doomed(order);
        ip(&bed.node, &format!("link set eth0 mtu {mtu}"));
        bed.killed(order);
        bed.start(&[]);
        let has =
            |netns: &str, name: &str| ip_json(netns, &format!("link show {name}"))[0]["mtu"] == mtu;
        wait_until(&format!("{order}: both ends"), || {
            has(&pod.netns, "eth0") && has(&bed.node, &made.host_ifname)
        });
        wait_until(&format!("{order}: the journal"), || {
            bed.state()["attachments"][0]["mtu"] == mtu
        });
        bed.agree(1);
        assert_eq!(bed.add(&pod).await.unwrap().mtu, mtu, "{order}");
    }
    ip(&bed.node, "link set eth0 mtu 1500");
    wait_until("the pod follows", || {
        bed.state()["attachments"][0]["mtu"] == 1500
    });
    serves(&bed, &pod, &clean).await;
}

#[tokio::test]
async fn killed_at_every_write_of_uninstall() {
    if !possible("killed_at_every_write_of_uninstall") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    let before = bed.kernel();
    let settings = Settings::of(&bed);
    let mut all = orders("uninstall");
    all.extend(["uninstall.nic.before@2", "uninstall.files.before@2"].map(str::to_owned));
    all.extend((2..9).map(|nth| format!("uninstall.files.after@{nth}")));
    for order in all {
        bed.start(&[]);
        let pod = bed.pod(&order.replace(['.', '@'], "-"));
        bed.add(&pod).await.unwrap();
        bed.kill();
        plant_leftover(&bed);
        bed.uninstall_doomed(&order);
        bed.uninstall();
        assert_eq!(bed.kernel(), before, "{order}");
        assert_eq!(Settings::of(&bed), settings, "{order}");
        assert!(!pod.has_interface(), "{order}");
        let left = std::fs::read_dir(bed.run_dir()).unwrap().count();
        assert_eq!(left, 0, "{order}: files are left");
    }
}

/// Stopped in the middle instead of killed: the caller gives up meanwhile and says DEL as soon as somebody listens, while
/// the ADD goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_the_middle_of_add_nobody_waits_any_more() {
    if !possible("stopped_in_the_middle_of_add") {
        return;
    }
    let mut bed = Bed::new(ADDRESSES);
    bed.start(&["--failpoint", "add.sources.before=stop"]);
    let clean = bed.kernel();
    let pod = bed.pod("a");
    let mut client = bed.client().await;
    let request = pod.add_request();
    let caller = tokio::spawn(async move { client.add_network(request).await });
    bed.stopped();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    bed.go_on();
    assert_eq!(bed.del(&pod, true).await, None);
    bed.agree(0);
    assert_eq!(bed.kernel(), clean);
    serves(&bed, &pod, &clean).await;
    all_free(&bed);
}

/// Kernel settings that the agent changes.
#[derive(Debug, PartialEq)]
struct Settings(String);

impl Settings {
    fn of(bed: &Bed) -> Self {
        let paths = [
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/conf/eth0/src_valid_mark",
            "ipv6/conf/eth0/accept_ra",
            "ipv6/conf/eth1/accept_ra",
        ]
        .map(|path| format!("/proc/sys/net/{path}"));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        Self(in_netns(&bed.node, "cat", &paths))
    }
}
