//! The image as `scripts/image.sh` makes it of the release programs, in a containerd of its own: imported, and each program
//! started in it, with nothing there but itself.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PROGRAMS: [&str; 4] = [
    "tombolo",
    "tombolo-agent",
    "tombolo-cni",
    "tombolo-operator",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where `make build` leaves the programs.
fn release() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_tombolo")).with_file_name("../release")
}

/// Whether the test can run here. In CI it must.
fn possible(test: &str) -> bool {
    let lacks = |tool: &&str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {tool} >/dev/null")])
            .status();
        !found.is_ok_and(|status| status.success())
    };
    let tools = ["containerd", "ctr", "runc", "ip", "nsenter", "readelf"];
    let program = release().join(PROGRAMS[0]);
    let reason = if let Some(tool) = tools.iter().find(|tool| lacks(tool)) {
        format!("there is no {tool}")
    } else if !program.is_file() {
        format!("there is no {}: make build", program.display())
    } else if !rustix::process::geteuid().is_root() {
        "needs root".to_owned()
    } else {
        return true;
    };
    let ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!ci, "{test}: {reason}");
    println!("SKIP {test}: {reason}");
    false
}

#[track_caller]
fn ok(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    ok(&Command::new(program).args(args).output().unwrap())
}

fn make(archive: &Path) -> String {
    let mut command = Command::new(repository().join("scripts/image.sh"));
    command.arg(archive).arg("tried").arg(release());
    ok(&command.output().unwrap())
}

/// A containerd in a network namespace of its own, with all that it keeps in one folder.
struct Containerd {
    dir: tempfile::TempDir,
    netns: String,
    process: Child,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
            path("opt")
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = format!("tst-image-{}-{count}", std::process::id());
        run("ip", &["netns", "add", &netns]);
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        // Not by `ip netns exec`, which hides the cgroups.
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{netns}"))
            .args(["unshare", "--mount", "containerd", "--config"])
            .arg(path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let containerd = Self {
            dir,
            netns,
            process,
        };
        containerd.await_answer();
        containerd
    }

    fn await_answer(&self) {
        let begin = Instant::now();
        while !self.ctr(&["version"]).status.success() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(60), "{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        let socket = self.dir.path().join("socket");
        command.arg("--address").arg(socket);
        command.args(["--namespace", "k8s.io"]).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Another one in each run: the folder of runc is one for the whole machine.
    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.netns)
    }

    /// A container of the image that uses the namespace's network, as in the manifests.
    fn container(&self, name: &str, mount: Option<&str>, args: &[&str]) -> Command {
        // Not by `--net-host`, which puts the resolv.conf of the machine over that of the container.
        let network = format!("network:/run/netns/{}", self.netns);
        let mut all = vec!["run", "--rm", "--with-ns", &network, "--read-only"];
        all.extend(["--snapshotter", "native", "--cgroup", ""]);
        all.extend(mount.iter().flat_map(|mount| ["--mount", mount]));
        let id = self.id(name);
        all.extend(["tombolo.dev/tombolo:tried", &id]);
        all.extend(args);
        self.command(&all)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _waited = self.process.wait();
        let _removed = Command::new("ip")
            .args(["netns", "del", &self.netns])
            .status();
    }
}

/// The `ctr` that runs a container until that ends, and then removes it; ends with the value.
struct Running<'a> {
    containerd: &'a Containerd,
    id: String,
    process: Child,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let begin = Instant::now();
        let ended = |process: &mut Child| matches!(process.try_wait(), Ok(Some(_)));
        // Not once: it may be that it is only being started.
        while !ended(&mut self.process) && begin.elapsed() < Duration::from_secs(30) {
            let kill = ["tasks", "kill", "--signal", "SIGKILL", &self.id];
            let _killed = self.containerd.ctr(&kill);
            std::thread::sleep(Duration::from_millis(50));
        }
        // Where it ended, this does nothing.
        let _killed = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// Does this in a network namespace, on a thread that ends there.
fn inside<T: Send + 'static>(netns: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(format!("/run/netns/{netns}")).unwrap();
    std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// Answers every question for an IPv4 address with 127.0.0.1, and others with nothing.
fn serve_names(socket: &UdpSocket) -> Vec<u8> {
    let mut query = [0_u8; 512];
    let mut asked = Vec::new();
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let question = &query[12..length];
        let name = question.iter().position(|byte| *byte == 0).unwrap();
        asked.extend_from_slice(&question[..name]);
        let is_a = question[name + 1..name + 3] == [0, 1];
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        reply.extend(&question[..name + 5]);
        if is_a {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&reply, from).unwrap();
    }
    asked
}

#[test]
fn the_image_holds_programs_that_need_nothing_else() {
    if !possible("the_image_holds_programs_that_need_nothing_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archives = ["one.tar", "two.tar"].map(|name| dir.path().join(name));
    let said = archives.each_ref().map(|archive| make(archive));
    assert!(said[0].contains("tombolo.dev/tombolo:tried"), "{said:?}");
    let bytes = archives
        .each_ref()
        .map(|archive| fs::read(archive).unwrap());
    assert!(bytes[0] == bytes[1], "made twice, it is not the same");

    let containerd = Containerd::start();
    let archive = archives[0].to_str().unwrap();
    let import = ["images", "import", "--snapshotter", "native", archive];
    ok(&containerd.ctr(&import));
    let version = concat!(" ", env!("CARGO_PKG_VERSION"), "\n");
    for program in PROGRAMS {
        // The plugin has another idea of versions: those of the specification.
        let (args, expected) = match program {
            "tombolo-cni" => (vec!["/tombolo-cni"], "CNI".to_owned()),
            _ => (vec![program, "--version"], format!("{program}{version}")),
        };
        let output = containerd.container(program, None, &args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(&expected), "{program}: {text}");
    }
}

/// The API server by name, from a name server that the container is told of as a kubelet does.
#[test]
fn a_program_of_the_image_finds_the_api_server_by_name() {
    if !possible("a_program_of_the_image_finds_the_api_server_by_name") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    make(&archive);
    let containerd = Containerd::start();
    let archive = archive.to_str().unwrap();
    let import = ["images", "import", "--snapshotter", "native", archive];
    ok(&containerd.ctr(&import));
    let (names, api) = inside(&containerd.netns, || {
        let names = UdpSocket::bind("127.0.0.1:53").unwrap();
        (names, TcpListener::bind("127.0.0.1:6443").unwrap())
    });
    names
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let resolv = dir.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 127.0.0.1\n").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/etc/resolv.conf,options=rbind:ro",
        resolv.display()
    );
    let args = [
        "/tombolo-operator",
        "--cloud=sim",
        "--cloud-endpoint=http://127.0.0.1:1",
        "--cluster=c",
        "--api-server=http://api.tombolo.test:6443",
    ];
    let log = dir.path().join("log");
    let mut command = containerd.container("operator", Some(&mount), &args);
    command.stdout(Stdio::null());
    command.stderr(fs::File::create(&log).unwrap());
    let _operator = Running {
        containerd: &containerd,
        id: containerd.id("operator"),
        process: command.spawn().unwrap(),
    };
    api.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let mut asked = Vec::new();
    let mut caller = loop {
        asked.extend(serve_names(&names));
        match api.accept() {
            Ok((caller, _)) => break caller,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "asked: {:?}\n{}",
            String::from_utf8_lossy(&asked),
            fs::read_to_string(&log).unwrap()
        );
    };
    caller.set_nonblocking(false).unwrap();
    let mut request = [0_u8; 64];
    let length = caller.read(&mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..length]);
    assert!(request.starts_with("GET /apis/coordination"), "{request}");
}
