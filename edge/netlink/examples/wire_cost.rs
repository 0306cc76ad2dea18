//! Prints what wiring one pod costs, step by step: `cargo run --release --example wire_cost [pods]`. Needs root; works in
//! a fresh network namespace.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on stops")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use tombolo_core::datapath::{
    Address, Endpoint, EndpointAddress, NatState, OwnTable, Route, RouteKind, desired,
};
use tombolo_core::types::{AttachmentKey, Families, Family, Nic, NicId};
use tombolo_netlink::link::Veth;
use tombolo_netlink::wire::{self, PodSide};
use tombolo_netlink::{Kernel, Netns, Socket, addr, link, nft, route, sysctl};

const MTU: u32 = 1500;

fn fresh() -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "a fresh namespace for the calling thread")]
    // SAFETY: only the network namespace is unshared, no descriptors.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)
    }
}

fn a_netns() -> Netns {
    std::thread::spawn(|| {
        fresh().unwrap();
        Netns::own().unwrap()
    })
    .join()
    .unwrap()
}

fn nic() -> Nic {
    Nic {
        id: NicId("eni-0".into()),
        device_index: 0,
        mac: "02:00:00:00:00:10".parse().unwrap(),
        ifindex: 1,
        ifname: "lo".into(),
        mtu: MTU,
        addr4: None,
        addr6: None,
        subnet4: None,
        subnet6: None,
        gateway4: None,
        gateway6: None,
    }
}

fn endpoint(n: u32, families: Families, host_ifindex: u32) -> Endpoint {
    let ip = |family| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from((0xfd << 120) + u128::from(n))),
    };
    let addresses = families
        .iter()
        .map(|family| EndpointAddress {
            ip: ip(family),
            nic: nic().id,
        })
        .collect();
    let key = AttachmentKey::new("tombolo", &format!("c{n}"), "eth0").unwrap();
    Endpoint {
        key,
        host_ifindex,
        addresses,
        mtu: MTU,
    }
}

/// Durations of the steps of one kind, in the order of their first appearance.
#[derive(Default)]
struct Table(Vec<(&'static str, Vec<Duration>)>);

impl Table {
    fn time<T>(&mut self, step: &'static str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let outcome = f();
        self.add(step, start.elapsed());
        outcome
    }

    fn add(&mut self, step: &'static str, took: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == step) {
            Some((_, all)) => all.push(took),
            None => self.0.push((step, vec![took])),
        }
    }

    fn print(mut self) {
        println!(
            "{:40} {:>9} {:>9} {:>9}",
            "step (microseconds)", "p50", "p90", "p99"
        );
        for (step, all) in &mut self.0 {
            all.sort();
            let at = |percent: usize| all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e6;
            println!("{step:40} {:9.0} {:9.0} {:9.0}", at(50), at(90), at(99));
        }
    }
}

fn main() {
    let pods = std::env::args()
        .nth(1)
        .map_or(200, |text| text.parse().unwrap());
    fresh().unwrap();
    let mut kernel = Kernel::open().unwrap();
    nft::install(&mut kernel.netfilter, &NatState::default()).unwrap();
    let mut table = Table::default();
    let mut next = 1;
    for (label, families) in [("IPv4", Families::V4), ("dual stack", Families::Dual)] {
        println!("{label}, {pods} pods, one after the other, all kept");
        let mut kept = Vec::new();
        for _ in 0..pods {
            next += 1;
            let netns = a_netns();
            let mut ep = endpoint(next, families, 0);
            let ips: Vec<_> = ep.addresses.iter().map(|address| address.ip).collect();
            let start = Instant::now();
            let mut pod = table
                .time("open socket in pod", || PodSide::open(&netns))
                .unwrap();
            let pair = table
                .time("create veth", || pod.create(&mut kernel, &ep.key, MTU))
                .unwrap();
            ep.host_ifindex = pair.host_ifindex;
            let state = desired::endpoint(&ep, &[nic()]);
            table
                .time("configure", || {
                    pod.configure(&mut kernel, pair, &ep.key, &state)
                })
                .unwrap();
            table.add("= ADD", start.elapsed());
            table.time("close socket", || drop(pod));
            kept.push((netns, ep, pair, ips));
        }
        for _ in 0..10 {
            let observed = table.time("observe the whole node", || {
                kernel.observe_node(&BTreeSet::new(), &BTreeSet::new())
            });
            assert!(observed.unwrap().nat_intact);
        }
        for (netns, ep, pair, ips) in &kept {
            table
                .time("= DEL (synchronous part)", || {
                    wire::detach_pod(
                        &mut kernel,
                        Some(netns),
                        &ep.key,
                        Some(pair.host_ifindex),
                        ips,
                        &OwnTable::default(),
                    )
                })
                .unwrap();
        }
        table
            .time("reap all", || wire::reap_doomed(&mut kernel))
            .unwrap();
        std::mem::take(&mut table).print();
        println!();
    }
    floor(&mut kernel, pods, &mut next);
}

/// The bare kernel work with the least code: one call each, no policy, no settings.
fn floor(kernel: &mut Kernel, pods: u32, next: &mut u32) {
    println!("single calls, {pods} pods");
    let mut table = Table::default();
    let mut kept = Vec::new();
    for _ in 0..pods {
        *next += 1;
        let netns = a_netns();
        let ep = endpoint(*next, Families::Dual, 0);
        let (mac, peer_mac) = ep.key.macs();
        table
            .time("enter and leave a namespace", || netns.run(|| ()))
            .unwrap();
        let mut socket = table
            .time("open socket in pod", || Socket::route_in(&netns))
            .unwrap();
        let peer_name = ep.key.host_ifname().0;
        let veth = Veth {
            name: "eth0",
            mac,
            peer_name: &peer_name,
            peer_mac,
            peer_group: 7,
            mtu: MTU,
        };
        let own = std::os::fd::AsFd::as_fd(&kernel.netns);
        let (pod, host) = table
            .time("create veth", || link::create_veth(&mut socket, &veth, own))
            .unwrap();
        table
            .time("addrgenmode", || {
                socket.request(link::set_addrgenmode_none(pod))
            })
            .unwrap();
        table
            .time("first end up", || socket.request(link::set_up(pod, true)))
            .unwrap();
        kernel
            .route
            .request(link::set_addrgenmode_none(host))
            .unwrap();
        table
            .time("second end up", || {
                kernel.route.request(link::set_up(host, true))
            })
            .unwrap();
        table
            .time("get link", || link::by_index(&mut socket, pod))
            .unwrap();
        for (step, address) in ep
            .addresses
            .iter()
            .map(|address| address.ip)
            .zip(["add IPv4 address", "add IPv6 address"])
            .map(|(ip, step)| (step, ip))
        {
            table
                .time(step, || {
                    socket.request(addr::add(&Address {
                        ifindex: pod,
                        ip: address.into(),
                    }))
                })
                .unwrap();
        }
        for (step, address) in ep
            .addresses
            .iter()
            .map(|address| address.ip)
            .zip(["add IPv4 host route", "add IPv6 host route"])
            .map(|(ip, step)| (step, ip))
        {
            let route = Route {
                table: 990,
                dst: address.into(),
                kind: RouteKind::Link { ifindex: host },
                metric: 1024,
            };
            table
                .time(step, || kernel.route.request(route::add(&route)))
                .unwrap();
        }
        let setting = tombolo_core::datapath::Sysctl {
            path: format!("ipv6/conf/{peer_name}/accept_ra"),
            value: "0".into(),
        };
        table
            .time("write a sysctl", || sysctl::write(&setting))
            .unwrap();
        let sources: Vec<_> = ep
            .addresses
            .iter()
            .map(|address| (host, address.ip, 1))
            .collect();
        table
            .time("add nft elements", || {
                nft::add_sources(&mut kernel.netfilter, &sources)
            })
            .unwrap();
        table
            .time("delete nft elements", || {
                nft::del_sources(&mut kernel.netfilter, &sources)
            })
            .unwrap();
        kept.push((netns, socket, pod, host));
    }
    for (_, socket, pod, host) in &mut kept {
        table
            .time("rename while up", || {
                socket.request(link::rename(*pod, "other"))
            })
            .unwrap();
        table
            .time("down (peer up)", || {
                kernel.route.request(link::set_down_in_group(*host, 9))
            })
            .unwrap();
        table
            .time("down (peer down)", || {
                socket.request(link::set_up(*pod, false))
            })
            .unwrap();
        table
            .time("rename while down", || {
                socket.request(link::rename(*pod, "another"))
            })
            .unwrap();
    }
    table
        .time("delete all by group", || {
            kernel.route.request(link::delete_group(9))
        })
        .unwrap();
    table.print();
}
