//! Several networks in one pod: an interface each, and packets leave by the one whose address they carry.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bed::{Bed, Pod, in_netns, ip, ip_json, possible};

fn plain(attachment: &tombolo_rpc::Attachment) -> Vec<String> {
    attachment
        .addresses
        .iter()
        .map(|a| a.cidr.split('/').next().unwrap().to_owned())
        .collect()
}

/// Interfaces that have a default route in the pod's main table, by family.
fn defaults(pod: &Pod) -> [Vec<String>; 2] {
    ["-4", "-6"].map(|family| {
        let routes = ip_json(
            &pod.netns,
            &format!("{family} route show table main default"),
        );
        let all = routes.as_array().unwrap().iter();
        all.map(|route| route["dev"].as_str().unwrap().to_owned())
            .collect()
    })
}

/// What the pod has besides the kernel's three.
fn rules(pod: &Pod) -> Vec<Value> {
    let all = ["-4", "-6"].map(|family| ip_json(&pod.netns, &format!("{family} rule show")));
    let all = all.iter().flat_map(|rules| rules.as_array().unwrap());
    all.filter(|rule| rule["protocol"] != "kernel")
        .cloned()
        .collect()
}

/// Whether the fabric's router answers to a ping that is bound to this source or interface.
fn pings_from(pod: &Pod, bound: &str, target: &str) -> bool {
    let enter = format!("--net=/run/netns/{}", pod.netns);
    let words = ["ping", "-n", "-c1", "-W2", "-I", bound, target];
    Command::new("nsenter")
        .arg(enter)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Both ways, both families; what is sent from the interface's own address arrives though the pod's default route is
/// another's.
fn works(bed: &Bed, pod: &Pod, made: &tombolo_rpc::Attachment) {
    let ips = plain(made);
    let far = if ips[0].starts_with("10.77.0.") {
        ["10.77.0.1", "fd77:0::1"]
    } else {
        ["10.77.1.1", "fd77:1::1"]
    };
    for (ip, target) in ips.iter().zip(far) {
        assert!(bed.fabric_reaches(ip), "{ip} of {}", pod.ifname);
        for bound in [ip, &pod.ifname] {
            assert!(pings_from(pod, bound, target), "{target} from {bound}");
        }
    }
}

#[tokio::test]
async fn two_networks_in_one_pod_and_each_stands_by_itself() {
    if !possible("two_networks_in_one_pod") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let clean = bed.kernel();
    let first = bed.pod("a");
    let second = first.in_network("second", "net1");
    // Asymmetric ways would be dropped.
    let strict = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done";
    in_netns(&first.netns, "sh", &["-c", strict]);
    let one = bed.add(&first).await.unwrap();
    assert!(rules(&first).is_empty(), "a single one needs none");
    let two = bed.add(&second).await.unwrap();
    // Those of the first one's interface only.
    in_netns(&first.netns, "sh", &["-c", strict]);
    assert_ne!(plain(&one), plain(&two));
    let eth0 = || vec!["eth0".to_owned()];
    assert_eq!(defaults(&first), [eth0(), eth0()]);
    assert!(one.routes.iter().all(|route| route.table == 0));
    assert!(two.routes.iter().all(|route| route.table > 116_000));
    bed.agree(2);

    works(&bed, &first, &one);
    works(&bed, &second, &two);
    // An agent that starts knows both.
    bed.kill();
    bed.start(&[]);
    for (pod, made) in [(&first, &one), (&second, &two)] {
        assert_eq!(bed.check(pod, made).await, None);
        assert_eq!(
            bed.add(pod).await.as_ref(),
            Ok(made),
            "ADD again is the same"
        );
        works(&bed, pod, made);
    }
    let table = two.routes[0].table;
    ip(
        &first.netns,
        &format!("rule del lookup {table} from {}", plain(&two)[0]),
    );
    let failure = bed.check(&second, &two).await.unwrap();
    assert_eq!(failure.reason, "CheckFailed");
    let words = format!("rule to table {table} for {}/32 is missing", plain(&two)[0]);
    assert!(failure.message.contains(&words), "{}", failure.message);
    assert_eq!(bed.check(&first, &one).await, None);

    // The one that came later goes, with all that it had in the pod.
    assert_eq!(bed.del(&second, true).await, None);
    assert!(!second.has_interface() && first.has_interface());
    assert_eq!(rules(&first), Vec::<Value>::new());
    assert_eq!(bed.check(&first, &one).await, None);
    works(&bed, &first, &one);
    bed.agree(1);
    let two = bed.add(&second).await.unwrap();

    // The one that has the default route goes.
    assert_eq!(bed.del(&first, true).await, None);
    assert!(second.has_interface() && !first.has_interface());
    assert_eq!(bed.check(&second, &two).await, None);
    works(&bed, &second, &two);
    bed.agree(1);
    // Another that comes has it again.
    let one = bed.add(&first).await.unwrap();
    assert_eq!(defaults(&first), [eth0(), eth0()]);
    works(&bed, &first, &one);
    works(&bed, &second, &two);

    // GC of one network does not concern the other.
    assert_eq!(bed.gc("second", &[&first]).await, None);
    assert_eq!(bed.check(&first, &one).await, None);
    bed.agree(1);
    assert_eq!(bed.del(&second, true).await, None);
    assert_eq!(bed.del(&first, true).await, None);
    bed.agree(0);
    assert_eq!(bed.kernel(), clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_that_are_asked_for_at_once_share_one_default_route() {
    if !possible("networks_that_are_asked_for_at_once") {
        return;
    }
    let mut bed = Bed::new(24);
    bed.start(&[]);
    let pods: Vec<Pod> = (0..8).map(|n| bed.pod(&format!("p{n}"))).collect();
    let mut interfaces = Vec::new();
    for pod in &pods {
        interfaces.extend(["eth0", "net1", "net2"].map(|ifname| pod.in_network(ifname, ifname)));
    }
    let adds = interfaces.iter().map(|interface| bed.add(interface));
    let made = futures::future::join_all(adds).await;
    for pod in &pods {
        let [v4, v6] = defaults(pod);
        assert_eq!((v4.len(), &v4), (1, &v6), "{}", pod.id);
    }
    for (interface, made) in interfaces.iter().zip(made) {
        let made = made.unwrap();
        assert_eq!(bed.check(interface, &made).await, None);
        for ip in plain(&made) {
            assert!(
                bed.fabric_reaches(&ip),
                "{} {}",
                interface.id,
                interface.ifname
            );
        }
    }
    bed.agree(24);
    let dels = interfaces.iter().map(|interface| bed.del(interface, true));
    let deleted = futures::future::join_all(dels).await;
    assert!(deleted.iter().all(Option::is_none), "{deleted:?}");
    for pod in &pods {
        assert_eq!(rules(pod), Vec::<Value>::new());
    }
    bed.agree(0);
}

#[tokio::test]
async fn the_interface_of_another_cni_keeps_its_default_route() {
    if !possible("the_interface_of_another_cni") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a").in_network("second", "net1");
    // A default route for IPv4 only.
    ip(&pod.netns, "link add eth0 type veth peer name other");
    ip(&pod.netns, "link set other up");
    ip(&pod.netns, "link set eth0 up");
    ip(&pod.netns, "addr add 192.0.2.2/24 dev eth0");
    ip(&pod.netns, "route add default via 192.0.2.1");
    let theirs = || ip_json(&pod.netns, "-4 route show default");
    let before = theirs();

    let made = bed.add(&pod).await.unwrap();
    assert_eq!(theirs(), before);
    let net1 = || vec!["net1".to_owned()];
    assert_eq!(defaults(&pod), [vec!["eth0".to_owned()], net1()]);
    let tables: Vec<bool> = made.routes.iter().map(|route| route.table == 0).collect();
    assert_eq!(tables, [false, false, true], "{:?}", made.routes);
    works(&bed, &pod, &made);
    assert_eq!(bed.check(&pod, &made).await, None);

    // What an earlier one of this name left, and what is not ours.
    assert_eq!(bed.del(&pod, false).await, None);
    bed.agree(0);
    let foreign = json!("192.0.2.77");
    ip(
        &pod.netns,
        "rule add from 192.0.2.77 lookup 77 priority 512",
    );
    assert!(
        rules(&pod).len() > 1,
        "DEL without the namespace leaves rules"
    );
    let made = bed.add(&pod).await.unwrap();
    works(&bed, &pod, &made);
    let stale = |rule: &&Value| rule["table"] != made.routes[0].table.to_string().as_str();
    let left: Vec<Value> = rules(&pod).iter().filter(stale).cloned().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["src"], foreign);

    assert_eq!(bed.del(&pod, true).await, None);
    assert_eq!(theirs(), before);
    assert_eq!(rules(&pod), left);
    bed.agree(0);
}
