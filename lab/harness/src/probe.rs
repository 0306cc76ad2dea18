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
        /// First connect to this address and fail if that fails: proves that the network was there at the first instruction.
        #[arg(long)]
        first_connect: Vec<SocketAddr>,
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
            for to in first_connect {
                let report = connect(to, Duration::from_secs(5), 0)?;
                println!("first-connect {to} {}", serde_json::to_string(&report)?);
            }
            serve(port)
        }
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

/// Serves for ever on both families.
fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .context("listen")?;
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
    let mut reader = stream.try_clone()?;
    std::io::copy(&mut reader, &mut stream)?;
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
