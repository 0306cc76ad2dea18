//! The node's own sockets that lead to an address are closed; all others stay.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use tombolo_netlink::{Socket, sockets};

use crate::support::{add_v6_to_lo, in_fresh_netns, run};

/// Both ends of a connection to this address, which is on the same node.
fn connection(to: &str) -> (TcpStream, TcpStream) {
    // An IPv6 socket that speaks IPv4 is listened for with IPv4.
    let ip: IpAddr = to.parse().unwrap();
    let listener = TcpListener::bind(SocketAddr::new(ip.to_canonical(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let near = TcpStream::connect(SocketAddr::new(ip, port)).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}

fn datagrams(to: &str) -> UdpSocket {
    let ip: IpAddr = to.parse().unwrap();
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((ip, 9)).unwrap();
    socket
}

#[test]
fn only_what_leads_to_the_addresses_is_closed() {
    in_fresh_netns("sockets", || {
        for each in ["10.0.0.2", "10.0.0.3"] {
            run("ip", &format!("addr add {each}/32 dev lo"));
        }
        for each in ["fd00::2", "fd00::3"] {
            add_v6_to_lo(each);
        }
        let gone = ["10.0.0.2", "fd00::2", "::ffff:10.0.0.2"].map(connection);
        let stay = ["10.0.0.3", "fd00::3"].map(connection);
        let gone_datagrams = ["10.0.0.2", "fd00::2"].map(datagrams);
        let stay_datagrams = ["10.0.0.3", "fd00::3"].map(datagrams);
        let waiting = TcpListener::bind("10.0.0.2:0").unwrap();

        let ips: BTreeSet<IpAddr> = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).into();
        let mut socket = Socket::sock_diag().unwrap();
        // The near ends, and some of the far ones, which lead to the same address here.
        assert!(sockets::close_to(&mut socket, &ips).unwrap() >= 5);
        assert_eq!(sockets::close_to(&mut socket, &ips).unwrap(), 0);

        for (mut near, _) in gone {
            let error = near.read(&mut [0]).unwrap_err();
            // The far end leads to the address as well, here, and its end is told by a reset.
            let kinds = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        for socket in gone_datagrams {
            let error = socket.recv(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        for (mut near, mut far) in stay {
            near.write_all(b"x").unwrap();
            far.read_exact(&mut [0]).unwrap();
        }
        for socket in stay_datagrams {
            socket.send(b"x").unwrap();
        }
        let port = waiting.local_addr().unwrap().port();
        TcpStream::connect(("10.0.0.2", port)).unwrap();
    });
}
