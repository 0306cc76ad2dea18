//! The floor: the least that any CNI plugin must do to plug a routed veth pod, and nothing else. Executed by the same
//! runner as the plugins that it is compared with, in a namespace that is ready: a veth pair, addresses, routes, by netlink,
//! in three system calls a namespace. No agent, no allocation, no journal, no filter, no answer worth reading.
//!
//! `floor ipv4|dual` with CNI_COMMAND, CNI_NETNS and CNI_IFNAME in the environment, as a plugin gets them.
//! (It speaks netlink by itself, so that it cannot inherit a slowness of what it is the floor for.)

use std::env;
use std::error::Error;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const POD_INDEX: i32 = 100;
const GATEWAY4: [u8; 4] = [169, 254, 1, 1];
const GATEWAY6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn main() {
    if let Err(error) = run() {
        eprintln!("floor: {error}");
        process::exit(1);
    }
}

fn run() -> Result<()> {
    // The process id makes host end and index unique among those that run at once.
    let unique = i32::try_from(process::id())?;
    let host_index = 1_000_000 + unique;
    let host = format!("flr{unique}");
    let ifname = env::var("CNI_IFNAME")?;
    let pod_ns = File::open(env::var("CNI_NETNS")?)?;
    let host_ns = File::open("/proc/self/ns/net")?;
    if env::var("CNI_COMMAND")? == "DEL" {
        return delete(&ifname, &pod_ns);
    }
    // 10.64.0.0/10 and fd99::/64, by process id.
    let low = u32::try_from(unique)? & 0x003f_ffff;
    let v4 = Ipv4Addr::from(0x0a40_0000 | low);
    let v6 = match env::args().nth(1).as_deref() {
        Some("ipv4") => None,
        Some("dual") => Some(Ipv6Addr::from(0xfd99_u128 << 112 | u128::from(low))),
        _ => return Err("usage: floor ipv4|dual".into()),
    };

    let host_socket = socket()?;
    enter(&pod_ns)?;
    let pod_socket = socket()?;

    let mut pod = Batch::default();
    pod.message(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        |m| {
            m.link(POD_INDEX, 0);
            m.attr(3, &zero(&ifname));
            m.nest(18, |m| {
                m.attr(1, b"veth\0");
                m.nest(2, |m| {
                    m.nest(1, |m| {
                        m.link(host_index, 0);
                        m.attr(3, &zero(&host));
                        m.attr(28, &host_ns.as_raw_fd().to_ne_bytes());
                    });
                });
            });
        },
    );
    pod.message(libc::RTM_NEWLINK, 0, |m| m.link(POD_INDEX, libc::IFF_UP));
    pod.address(&v4.octets(), 32);
    pod.route(&GATEWAY4, 32, None, POD_INDEX);
    pod.route(&[], 0, Some(&GATEWAY4), POD_INDEX);
    if let Some(v6) = v6 {
        pod.address(&v6.octets(), 128);
        pod.route(&GATEWAY6, 128, None, POD_INDEX);
        pod.route(&[0; 16], 0, Some(&GATEWAY6), POD_INDEX);
    }
    pod.send(&pod_socket)?;

    let mut side = Batch::default();
    side.message(libc::RTM_NEWLINK, 0, |m| m.link(host_index, libc::IFF_UP));
    side.route(&v4.octets(), 32, None, host_index);
    if let Some(v6) = v6 {
        side.route(&v6.octets(), 128, None, host_index);
    }
    side.send(&host_socket)?;
    println!("{{\"cniVersion\":\"1.0.0\"}}");
    Ok(())
}

fn delete(ifname: &str, pod_ns: &File) -> Result<()> {
    enter(pod_ns)?;
    let mut batch = Batch::default();
    batch.message(libc::RTM_DELLINK, 0, |m| {
        m.link(0, 0);
        m.attr(3, &zero(ifname));
    });
    batch.send(&socket()?)
}

fn zero(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Messages that leave in one system call.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: i32, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.count += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        let flags =
            u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).unwrap_or_default();
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or_default();
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn link(&mut self, index: i32, up: i32) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(index.to_ne_bytes());
        self.bytes.extend(up.to_ne_bytes());
        self.bytes.extend(up.to_ne_bytes());
    }

    fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or_default();
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or_default();
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn address(&mut self, ip: &[u8], prefix: u8) {
        let family = family(ip.len());
        self.message(libc::RTM_NEWADDR, libc::NLM_F_CREATE, |m| {
            // IFA_F_NODAD
            m.bytes.extend([family, prefix, 0x02, 0]);
            m.bytes.extend(POD_INDEX.to_ne_bytes());
            m.attr(2, ip);
            m.attr(1, ip);
        });
    }

    fn route(&mut self, dst: &[u8], prefix: u8, gateway: Option<&[u8]>, index: i32) {
        let family = family(gateway.map_or(dst.len(), <[u8]>::len));
        let scope = if gateway.is_none() && family == 2 {
            libc::RT_SCOPE_LINK
        } else {
            libc::RT_SCOPE_UNIVERSE
        };
        self.message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE, |m| {
            m.bytes.extend([
                family,
                prefix,
                0,
                0,
                libc::RT_TABLE_MAIN,
                libc::RTPROT_STATIC,
                scope,
                libc::RTN_UNICAST,
            ]);
            m.bytes.extend([0; 4]);
            if prefix > 0 {
                m.attr(1, dst);
            }
            if let Some(gateway) = gateway {
                m.attr(5, gateway);
            }
            m.attr(4, &index.to_ne_bytes());
        });
    }

    fn send(&self, socket: &OwnedFd) -> Result<()> {
        // SAFETY: the buffer lives through the call.
        let sent = unsafe {
            libc::send(
                socket.as_raw_fd(),
                self.bytes.as_ptr().cast(),
                self.bytes.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let mut left = self.count;
        let mut buffer = [0_u8; 16_384];
        while left > 0 {
            // SAFETY: the buffer lives through the call and its length is given.
            let got = unsafe {
                libc::recv(
                    socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            let mut rest = buffer.get(..usize::try_from(got)?).ok_or("short buffer")?;
            while rest.len() >= 20 {
                let length = u32::from_ne_bytes(rest[0..4].try_into()?) as usize;
                let sequence = u32::from_ne_bytes(rest[8..12].try_into()?);
                let code = i32::from_ne_bytes(rest[16..20].try_into()?);
                if code != 0 {
                    return Err(format!(
                        "message {sequence}: {}",
                        std::io::Error::from_raw_os_error(-code)
                    )
                    .into());
                }
                left -= 1;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn family(octets: usize) -> u8 {
    if octets == 16 { 10 } else { 2 }
}

fn socket() -> Result<OwnedFd> {
    // SAFETY: no memory is involved; a valid result is ours alone.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn enter(netns: &File) -> Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
