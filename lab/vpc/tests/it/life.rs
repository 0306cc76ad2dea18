//! Start, stop, residue, instances.

use std::io::{Read, Write};
use std::net::TcpStream;

use tombolo_cloud_sim::wire::{AttachNic, DescribeNics, DescribeSubnets, InstanceState};
use tombolo_lab_vpc::admin::{ListInstances, RunInstance, TerminateInstance};
use tombolo_lab_vpc::fabric::Netns;
use tombolo_lab_vpc::{Config, Options, Server};

use crate::support::{Lab, inside, lab_name, namespaces, netns, privileged, sh};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_sweeps_what_a_killed_run_left() {
    if !privileged("a_start_sweeps_what_a_killed_run_left") {
        return;
    }
    let name = lab_name();
    for part in ["fabric", "inet", "old-vm"] {
        Netns::create(&format!("tl-{name}-{part}")).unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("vpc.sock"), "").unwrap();
    let options = Options {
        lab: name.clone(),
        state: state.path().to_owned(),
        config: Config::default(),
        fabric: true,
    };
    let server = Server::start(options.clone()).await.unwrap();
    let mut left = namespaces(&name);
    left.sort();
    assert_eq!(
        left,
        [format!("tl-{name}-fabric"), format!("tl-{name}-inet")]
    );
    // A second one of the same name keeps its hands off.
    let second = Server::start(options).await.unwrap_err();
    assert!(second.to_string().contains("running already"), "{second}");
    assert_eq!(
        server
            .client()
            .cloud(&DescribeSubnets::default())
            .await
            .unwrap()
            .len(),
        2
    );
    server.shutdown().await.unwrap();
    assert!(namespaces(&name).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lab_names_that_would_not_do_are_refused() {
    let state = tempfile::tempdir().unwrap();
    for lab in ["", "a-b", "../x", "A", "waytoolongforanamespacename"] {
        let options = Options {
            lab: lab.to_owned(),
            state: state.path().to_owned(),
            config: Config::default(),
            fabric: false,
        };
        let error = Server::start(options).await.unwrap_err();
        assert!(error.to_string().starts_with("lab name"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_namespace_is_used_and_left_standing() {
    if !privileged("a_foreign_namespace_is_used_and_left_standing") {
        return;
    }
    let lab = Lab::start("").await;
    let node = format!("tst-vpc-{}", lab.name);
    let ns = Netns::create(&node).unwrap();
    let call = RunInstance {
        name: "node-1".to_owned(),
        instance_type: "m5.large".to_owned(),
        subnet: "subnet-a".to_owned(),
        netns: Some(format!("/run/netns/{node}")),
    };
    let vm = lab.client.lab(&call).await.unwrap();
    assert!(sh(&ns, "ip -4 -o addr show eth0").contains(&vm.primary4.to_string()));

    // Its name is taken while it runs, and eth0 is taken too: refused, and nothing is left behind.
    let again = lab.client.lab(&call).await.unwrap_err();
    assert_eq!(again.code(), Some("InvalidParameterValue"), "{again}");
    let free = lab.client.cloud(&DescribeSubnets::default()).await.unwrap();
    let other = RunInstance {
        name: "node-2".to_owned(),
        ..call.clone()
    };
    let error = lab.client.lab(&other).await.unwrap_err();
    assert!(
        error.code() == Some("InternalError") && error.to_string().contains("node-2"),
        "{error}"
    );
    assert_eq!(
        lab.client.cloud(&DescribeSubnets::default()).await.unwrap(),
        free
    );
    let missing = RunInstance {
        name: "node-3".to_owned(),
        netns: Some("/nowhere".to_owned()),
        ..call
    };
    let error = lab.client.lab(&missing).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");

    lab.client
        .lab(&TerminateInstance {
            instance: "node-1".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(sh(&ns, "ip -o link show eth0 2>/dev/null || true"), "");
    lab.down().await;
    Netns::remove(&node).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_deletes_what_asks_for_it() {
    if !privileged("terminating_deletes_what_asks_for_it") {
        return;
    }
    let lab = Lab::start("delays: {attach_ms: 0, detach_ms: 0}").await;
    let vm = lab.vm("a", "subnet-a").await;
    let (keep, lose) = (lab.nic("subnet-a").await.id, lab.nic("subnet-a").await.id);
    for (index, (nic, delete_on_termination)) in
        [(&keep, false), (&lose, true)].into_iter().enumerate()
    {
        let device_index = u16::try_from(index + 1).unwrap();
        let call = AttachNic {
            nic: nic.clone(),
            instance: vm.id.clone(),
            device_index,
            delete_on_termination,
        };
        lab.client.cloud(&call).await.unwrap();
    }
    lab.client
        .lab(&TerminateInstance {
            instance: "a".to_owned(),
        })
        .await
        .unwrap();
    let nics = lab.client.cloud(&DescribeNics::default()).await.unwrap();
    assert_eq!(nics.iter().map(|n| &n.id).collect::<Vec<_>>(), [&keep]);
    assert_eq!(
        lab.client.lab(&ListInstances {}).await.unwrap()[0].state,
        InstanceState::Terminated
    );
    assert!(!std::path::Path::new(&vm.netns).exists());
    // The name is free again, and ending what has ended is no error.
    lab.client
        .lab(&TerminateInstance { instance: vm.id })
        .await
        .unwrap();
    lab.vm("a", "subnet-a").await;
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_find_the_cloud_api_but_not_the_labs() {
    if !privileged("instances_find_the_cloud_api_but_not_the_labs") {
        return;
    }
    let lab = Lab::start("").await;
    let ns = netns(&lab.vm("a", "subnet-a").await);
    let post = |path: &str| {
        inside(&ns, || {
            let mut stream = TcpStream::connect("169.254.169.254:80").unwrap();
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            reply
        })
    };
    let vpc = post("/v1/DescribeVpc");
    assert!(
        vpc.starts_with("HTTP/1.1 200") && vpc.contains("10.0.0.0/16"),
        "{vpc}"
    );
    let shutdown = post("/lab/v1/Shutdown");
    assert!(
        shutdown.starts_with("HTTP/1.1 400") && shutdown.contains("InvalidAction"),
        "{shutdown}"
    );
    lab.down().await;
}
