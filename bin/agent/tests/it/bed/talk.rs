//! Clients and servers in the bed's namespaces: a server answers with the client's address as it sees it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tombolo_netlink::Netns;

use super::ip_json;

/// How long a client waits for an answer, and how often a server looks for one.
const PATIENCE: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(2);

pub fn netns(name: &str) -> Netns {
    Netns::open(Path::new(&format!("/run/netns/{name}"))).unwrap()
}

/// All addresses of a namespace but link-local ones.
fn addresses(namespace: &str) -> Vec<IpAddr> {
    let links = ip_json(namespace, "addr show");
    let links = links.as_array().unwrap().iter();
    links
        .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
        .filter(|address| address["scope"] != "link")
        .map(|address| address["local"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Answers on a port of all addresses that there are, by TCP and UDP, until it is dropped. What it says begins with its name.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(namespace: &str, port: u16, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let netns = netns(namespace);
        let any = SocketAddr::new("::".parse().unwrap(), port);
        let tcp = netns.run(|| TcpListener::bind(any).unwrap()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        // One for each address: an answer comes from the address that was asked.
        let bind = |ip: &IpAddr| {
            let udp = UdpSocket::bind(SocketAddr::new(*ip, port)).unwrap();
            udp.set_nonblocking(true).unwrap();
            udp
        };
        let ips = addresses(namespace);
        let udp: Vec<UdpSocket> = netns.run(|| ips.iter().map(bind).collect()).unwrap();
        let says = |name: &str, from: SocketAddr| format!("{name} {}", from.ip().to_canonical());
        let (ends, own) = (Arc::clone(&stop), name.to_owned());
        let accepting = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut stream, from)) => drop(stream.write_all(says(&own, from).as_bytes())),
                    Err(_none) => std::thread::sleep(LOOK),
                }
            }
        });
        let (ends, own) = (Arc::clone(&stop), name.to_owned());
        let receiving = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !ends.load(Ordering::Relaxed) {
                for udp in &udp {
                    if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                        drop(udp.send_to(says(&own, from).as_bytes(), from));
                    }
                }
                std::thread::sleep(LOOK);
            }
        });
        Self {
            stop,
            threads: vec![accepting, receiving],
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// A client of UDP that keeps its port.
pub struct Client(UdpSocket);

impl Client {
    pub fn new(namespace: &str, source: IpAddr) -> Self {
        let from = SocketAddr::new(source, 0);
        let socket = netns(namespace)
            .run(|| UdpSocket::bind(from).unwrap())
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// One question; the answer, if one comes.
    pub fn ask(&self, to: SocketAddr) -> Option<String> {
        // What came of an earlier question: a refusal, or an answer that was late.
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        while self.0.recv(&mut buffer).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
        self.0.send_to(b"?", to).ok()?;
        let (length, from) = self.0.recv_from(&mut buffer).ok()?;
        assert_eq!(from, to, "another answered");
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// What a server says to a new client of this protocol.
pub fn ask(namespace: &str, protocol: &str, to: SocketAddr) -> Option<String> {
    if protocol == "udp" {
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        return Client::new(namespace, any.parse().unwrap()).ask(to);
    }
    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
    let mut stream = netns(namespace).run(connect).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
