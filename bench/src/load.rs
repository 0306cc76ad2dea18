//! The load on a path: one-byte ping-pong, and a stream. Client and server pinned to CPU 0.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte there, one byte back.
    RoundTrips,
    /// As much as goes.
    Stream,
}

/// Serves for ever; says so first.
pub fn serve(address: SocketAddr) -> Result<()> {
    pin()?;
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    println!("ready");
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0_u8; 1];
    stream.read_exact(&mut kind)?;
    if kind == *b"r" {
        let mut byte = [0_u8; 1];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte)?;
        }
        return Ok(());
    }
    let mut total = 0_u64;
    let mut buffer = vec![0_u8; 1 << 17];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())?;
    Ok(())
}

/// Round trips a second, or Gbit/s.
pub fn call(address: SocketAddr, kind: Kind, duration: Duration) -> Result<f64> {
    pin()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    match kind {
        Kind::RoundTrips => {
            stream.write_all(b"r")?;
            let mut byte = [7_u8; 1];
            let mut count = 0_u32;
            let begin = Instant::now();
            while begin.elapsed() < duration {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
                count += 1;
            }
            Ok(f64::from(count) / begin.elapsed().as_secs_f64())
        }
        Kind::Stream => {
            stream.write_all(b"s")?;
            let buffer = vec![7_u8; 1 << 17];
            let begin = Instant::now();
            while begin.elapsed() < duration {
                stream.write_all(&buffer)?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut total = [0_u8; 8];
            stream.read_exact(&mut total)?;
            Ok(u64::from_be_bytes(total) as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9)
        }
    }
}

/// CPU 0 for this process and its threads.
fn pin() -> Result<()> {
    // SAFETY: a zeroed set is valid, and both calls only touch it.
    let code = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if code != 0 {
        bail!("pin to CPU 0: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
