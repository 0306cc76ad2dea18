//! A lab per test, and ways to send from its namespaces.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tombolo_cloud_sim::wire::{AttachNic, CreateNic, NicInfo};
use tombolo_lab_vpc::admin::{CounterReport, Counters, InstanceDetail, RunInstance};
use tombolo_lab_vpc::fabric::{Netns, await_local};
use tombolo_lab_vpc::{AdminClient, Config, Options, Server};

/// Long enough for a loaded machine; only failing tests wait for it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(300);

pub struct Lab {
    pub name: String,
    pub client: AdminClient,
    pub state: TempDir,
    /// `None` once it is down.
    server: Option<Server>,
}

/// Whether namespaces can be made here. If not the test is skipped, except in CI.
pub fn privileged(test: &str) -> bool {
    let problem = if rustix::process::geteuid().is_root() {
        ["ip", "nft", "tcpdump"]
            .iter()
            .find(|p| !in_path(p))
            .map(|p| format!("no program {p}"))
    } else {
        Some("not root".to_owned())
    };
    let Some(problem) = problem else { return true };
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} cannot run: {problem}"
    );
    println!("SKIP {test}: {problem}");
    false
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).exists()))
}

pub fn lab_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "tst{}x{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Lab {
    pub async fn start(yaml: &str) -> Self {
        Self::with(yaml, true).await
    }

    /// Without namespaces: the API only.
    pub async fn api_only(yaml: &str) -> Self {
        Self::with(yaml, false).await
    }

    async fn with(yaml: &str, fabric: bool) -> Self {
        let state = tempfile::tempdir().unwrap();
        let name = lab_name();
        let config = Config::parse(yaml).unwrap();
        let options = Options {
            lab: name.clone(),
            state: state.path().to_owned(),
            config,
            fabric,
        };
        let server = Server::start(options).await.unwrap();
        Self {
            name,
            client: server.client(),
            state,
            server: Some(server),
        }
    }

    pub async fn vm(&self, name: &str, subnet: &str) -> InstanceDetail {
        self.vm_of(name, subnet, "m5.large").await
    }

    pub async fn vm_of(&self, name: &str, subnet: &str, instance_type: &str) -> InstanceDetail {
        let call = RunInstance {
            name: name.to_owned(),
            instance_type: instance_type.to_owned(),
            subnet: subnet.to_owned(),
            netns: None,
        };
        self.client.lab(&call).await.unwrap()
    }

    pub async fn counters(&self) -> CounterReport {
        self.client.lab(&Counters {}).await.unwrap()
    }

    pub async fn nic(&self, subnet: &str) -> NicInfo {
        self.client.cloud(&create(subnet)).await.unwrap()
    }

    /// Plugs the NIC in as the instance's second one.
    pub async fn attach(&self, nic: &NicInfo, vm: &InstanceDetail, delete_on_termination: bool) {
        let call = AttachNic {
            nic: nic.id.clone(),
            instance: vm.id.clone(),
            device_index: 1,
            delete_on_termination,
        };
        self.client.cloud(&call).await.unwrap();
    }

    /// Takes the lab down and checks that nothing is left.
    pub async fn down(mut self) {
        self.server.take().unwrap().shutdown().await.unwrap();
        assert_eq!(namespaces(&self.name), Vec::<String>::new());
        assert!(!self.client.socket().exists());
    }
}

/// A failed test leaves no namespaces either.
impl Drop for Lab {
    fn drop(&mut self) {
        if self.server.is_some() {
            tombolo_lab_vpc::fabric::sweep(&self.name).ok();
        }
    }
}

pub fn create(subnet: &str) -> CreateNic {
    CreateNic {
        subnet: subnet.to_owned(),
        description: "test".to_owned(),
        client_token: None,
        ipv4_count: 0,
        ipv6_count: 0,
        security_groups: Vec::new(),
        tags: std::collections::BTreeMap::new(),
    }
}

/// Named namespaces of a lab.
pub fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("tl-{lab}-");
    std::fs::read_dir("/run/netns")
        .map(|entries| {
            entries
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|n| n.starts_with(&prefix))
                .collect()
        })
        .unwrap_or_default()
}

pub fn netns(vm: &InstanceDetail) -> Netns {
    Netns::open(&vm.netns).unwrap()
}

/// Runs code in a namespace.
pub fn inside<T: Send>(ns: &Netns, code: impl FnOnce() -> T + Send) -> T {
    ns.run(|| Ok(code())).unwrap()
}

/// Runs a program in a namespace and returns what it printed.
pub fn sh(ns: &Netns, command: &str) -> String {
    let output = inside(ns, || {
        std::process::Command::new("sh")
            .args(["-c", command])
            .output()
            .unwrap()
    });
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Configures a further address on `eth0`, usable when this returns.
pub fn add_address(ns: &Netns, address: IpAddr) {
    match address {
        IpAddr::V4(a) => drop(sh(ns, &format!("ip addr add {a}/32 dev eth0"))),
        IpAddr::V6(a) => {
            sh(ns, &format!("ip addr add {a}/128 dev eth0 nodad"));
            ns.run(|| await_local("eth0", a)).unwrap();
        }
    }
}

/// A socket bound in a namespace; it stays usable outside.
pub fn udp(ns: &Netns, address: IpAddr, port: u16) -> UdpSocket {
    let socket = inside(ns, || UdpSocket::bind((address, port)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Receives one datagram: its text and its sender.
pub fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 1500];
    let (len, from) = socket.recv_from(&mut buffer).expect("nothing came");
    (String::from_utf8_lossy(&buffer[..len]).into_owned(), from)
}

/// Checks that nothing comes for a while.
pub fn silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 1500];
    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
        panic!("{from} sent {:?}", String::from_utf8_lossy(&buffer[..len]));
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Waits until a condition gives a value.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Addresses of a VM in both families.
pub fn both(vm: &InstanceDetail) -> [IpAddr; 2] {
    [vm.primary4.addr().into(), vm.primary6.unwrap().into()]
}
