//! Connection probes with addresses seen by both ends: `tombolo-lab probe serve|connect`. What netcat would do, with an
//! answer that a test can read: a drop, a reject and a reset are different outcomes.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

/// Probe commands.
#[derive(Debug, Subcommand)]
pub enum Args {
    /// Answer every TCP connection with one line of JSON that says who called, then echo what follows. UDP likewise.
    Serve {
        /// Port.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// As the very first instruction connect to these, and have the other side connect back: proves that the network
        /// was there at once, in both directions.
        #[arg(long)]
        first_connect: Vec<SocketAddr>,
    },
    /// Keep one connection busy with verified bytes until standard input ends, then print what happened.
    Carry {
        /// Whom.
        to: SocketAddr,
        /// Milliseconds between two blocks, so that many connections leave the machine something.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Send frames with a source that is not ours, on eth0.
    Spoof {
        /// What to forge.
        kind: crate::spoof::Kind,
        /// The address to claim.
        claim: IpAddr,
        /// Where to send to (ignored by ARP, ND and RA).
        to: IpAddr,
        /// The gateway's MAC, as the pod's neighbour table shows it.
        gateway_mac: String,
    },
    /// Connect once and print the outcome as JSON.
    Connect {
        /// Whom.
        to: SocketAddr,
        /// Bound in milliseconds.
        #[arg(long, default_value_t = 2000)]
        timeout_ms: u64,
        /// Bytes to echo and verify after the greeting.
        #[arg(long, default_value_t = 0)]
        bytes: usize,
    },
}

/// How a connection attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Established, and the greeting came.
    Connected,
    /// RST or ICMP port unreachable.
    Refused,
    /// Nothing came back.
    TimedOut,
    /// Established, then reset.
    Reset,
    /// ICMP host or net unreachable, or no route.
    Unreachable,
}

/// What one attempt saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Our address as the server saw it.
    pub seen_by_server: Option<IpAddr>,
    /// Our own address on the connection.
    pub local: Option<IpAddr>,
    /// SYNs that had to be sent again.
    pub syn_retransmits: u32,
    /// Microseconds until established.
    pub connect_us: u64,
}

/// The server's greeting.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    peer: SocketAddr,
    local: SocketAddr,
}

/// Runs a probe command.
pub fn run(args: Args) -> Result<()> {
    match args {
        Args::Serve {
            port,
            first_connect,
        } => {
            let first: Vec<_> = first_connect
                .iter()
                .map(|to| (to, TcpStream::connect_timeout(to, Duration::from_secs(5))))
                .collect();
            let listener = listen(port)?;
            for (to, stream) in first {
                let stream = stream.with_context(|| format!("first connection, to {to}"))?;
                println!(
                    "first-connect {}",
                    serde_json::to_string(&first_report(*to, stream, port, &listener)?)?
                );
            }
            serve(port, listener)
        }
        Args::Carry { to, pause_ms } => carry(to, Duration::from_millis(pause_ms)),
        Args::Spoof {
            kind,
            claim,
            to,
            gateway_mac,
        } => crate::spoof::send(kind, claim, to, &gateway_mac),
        Args::Connect {
            to,
            timeout_ms,
            bytes,
        } => {
            let report = connect(to, Duration::from_millis(timeout_ms), bytes)?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
    }
}

/// What the first connection saw, and the one that came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Whom we called.
    pub to: SocketAddr,
    /// SYNs that we had to send again.
    pub out_retransmits: u32,
    /// SYNs that the other side had to send again.
    pub back_retransmits: u32,
}

/// Asks the other end to connect back, accepts that, and reads how it went there.
fn first_report(
    to: SocketAddr,
    stream: TcpStream,
    port: u16,
    listener: &TcpListener,
) -> Result<First> {
    let out_retransmits = retransmits(&stream)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line).context("greeting")?;
    (&stream).write_all(format!("{CALLBACK}{port}\n").as_bytes())?;
    let (back, _) = listener.accept().context("accept the connection back")?;
    line.clear();
    reader.read_line(&mut line).context("answer to callback")?;
    drop(back);
    let back_retransmits = line
        .trim()
        .parse()
        .with_context(|| format!("answer to callback: {line:?}"))?;
    Ok(First {
        to,
        out_retransmits,
        back_retransmits,
    })
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .context("listen")
}

/// What a client says instead of bytes to echo: connect back to my port.
const CALLBACK: &str = "callback ";

/// Serves for ever on both families.
fn serve(port: u16, listener: TcpListener) -> Result<()> {
    let udp = UdpSocket::bind(("::", port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
        .context("bind UDP")?;
    println!(
        "serving on {}",
        listener.local_addr().context("local address")?
    );
    thread::spawn(move || {
        let mut buffer = [0_u8; 65_536];
        while let Ok((n, peer)) = udp.recv_from(&mut buffer) {
            let Some(packet) = buffer.get(..n) else {
                continue;
            };
            // An unreachable client is the client's affair.
            let _sent = udp.send_to(packet, peer);
        }
    });
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        thread::spawn(move || greet_and_echo(stream));
    }
    Ok(())
}

fn greet_and_echo(mut stream: TcpStream) -> Result<()> {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let greeting = Greeting {
        peer: canonical(stream.peer_addr()?),
        local: canonical(stream.local_addr()?),
    };
    let mut line = serde_json::to_vec(&greeting)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let begin = reader.fill_buf()?;
    if begin.starts_with(CALLBACK.as_bytes()) {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let port = line
            .trim_start_matches(CALLBACK)
            .trim()
            .parse()
            .with_context(|| format!("callback: {line:?}"))?;
        let back = TcpStream::connect_timeout(
            &SocketAddr::new(greeting.peer.ip(), port),
            Duration::from_secs(5),
        )?;
        writeln!(stream, "{}", retransmits(&back)?)?;
        return Ok(());
    }
    std::io::copy(&mut reader, &mut stream)?;
    Ok(())
}

/// What a connection carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Bytes that came back as they were sent.
    pub verified: u64,
    /// Longest time without progress, in milliseconds.
    pub longest_stall_ms: u64,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

/// Ping-pong of blocks until standard input ends.
fn carry(to: SocketAddr, pause: Duration) -> Result<()> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line).context("greeting")?;
    println!("carrying");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&stop);
    thread::spawn(move || {
        let mut rest = Vec::new();
        // Whatever ends it, it is the end.
        let _end = std::io::stdin().read_to_end(&mut rest);
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut carried = Carried {
        verified: 0,
        longest_stall_ms: 0,
        error: None,
    };
    let mut block = [0_u8; 1024];
    let mut back = [0_u8; 1024];
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        block.fill(u8::try_from(carried.verified / 1024 % 251).unwrap_or(0));
        let begin = Instant::now();
        if let Err(error) = (&stream)
            .write_all(&block)
            .and_then(|()| reader.read_exact(&mut back))
        {
            carried.error = Some(error.to_string());
            break;
        }
        if back != block {
            carried.error = Some("the echo differs from what was sent".to_owned());
            break;
        }
        carried.verified += 1024;
        carried.longest_stall_ms = carried
            .longest_stall_ms
            .max(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
        thread::sleep(pause);
    }
    println!("{}", serde_json::to_string(&carried)?);
    Ok(())
}

/// One attempt.
pub fn connect(to: SocketAddr, bound: Duration, bytes: usize) -> Result<Report> {
    let begin = Instant::now();
    let failed = |outcome| Report {
        outcome,
        seen_by_server: None,
        local: None,
        syn_retransmits: 0,
        connect_us: 0,
    };
    let stream = match TcpStream::connect_timeout(&to, bound) {
        Ok(stream) => stream,
        Err(error) => {
            return Ok(failed(
                outcome_of(&error).with_context(|| format!("connect to {to}: {error}"))?,
            ));
        }
    };
    let connect_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let syn_retransmits = retransmits(&stream)?;
    stream.set_read_timeout(Some(bound))?;
    let local = stream.local_addr()?.ip().to_canonical();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if let Err(error) = reader.read_line(&mut line) {
        return Ok(failed(
            outcome_of(&error).with_context(|| format!("greeting from {to}: {error}"))?,
        ));
    }
    let greeting: Greeting =
        serde_json::from_str(&line).with_context(|| format!("greeting from {to}: {line:?}"))?;
    if bytes > 0 {
        echo(&stream, &mut reader, bytes)?;
    }
    Ok(Report {
        outcome: Outcome::Connected,
        seen_by_server: Some(greeting.peer.ip()),
        local: Some(local),
        syn_retransmits,
        connect_us,
    })
}

/// Sends a pattern and compares what comes back.
fn echo(stream: &TcpStream, reader: &mut BufReader<TcpStream>, bytes: usize) -> Result<()> {
    let pattern: Vec<u8> = (0..bytes)
        .map(|i| u8::try_from(i % 251).unwrap_or(0))
        .collect();
    let mut writer = stream.try_clone()?;
    let to_send = pattern.clone();
    let sender = thread::spawn(move || writer.write_all(&to_send));
    let mut back = vec![0_u8; bytes];
    reader.read_exact(&mut back).context("read echo")?;
    anyhow::ensure!(back == pattern, "echo differs from what was sent");
    sender
        .join()
        .map_err(|_| anyhow::anyhow!("sender panicked"))?
        .context("send")
}

fn outcome_of(error: &std::io::Error) -> Option<Outcome> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Some(Outcome::Refused),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Outcome::TimedOut),
        ErrorKind::ConnectionReset => Some(Outcome::Reset),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Outcome::Unreachable),
        _ => None,
    }
}

/// Total retransmissions of a connection that has carried nothing but its handshake: `tcpi_total_retrans`.
#[expect(unsafe_code, reason = "no safe wrapper for TCP_INFO")]
fn retransmits(stream: &TcpStream) -> Result<u32> {
    use std::os::fd::AsRawFd as _;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size =
        libc::socklen_t::try_from(size_of::<libc::tcp_info>()).context("size of tcp_info")?;
    // SAFETY: the buffer is as large as `size` says, and the kernel writes at most that.
    let code = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    anyhow::ensure!(code == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    // SAFETY: zeroed memory is a valid tcp_info, and the kernel filled a prefix of it.
    Ok(unsafe { info.assume_init() }.tcpi_total_retrans)
}
