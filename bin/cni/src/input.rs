//! Reads stdin without trusting it to end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A configuration is a few kilobytes; with a long list of valid attachments still far below this.
const LIMIT: usize = 8 << 20;

/// Stdin could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("read network configuration from stdin")]
    Read(#[source] io::Error),
    #[error(
        "read network configuration from stdin: it does not end ({got} bytes, then nothing for {quiet:?})"
    )]
    Unending { got: usize, quiet: Duration },
    #[error(
        "read network configuration from stdin: it does not end ({got} bytes within {after:?})"
    )]
    Slow { got: usize, after: Duration },
    #[error("read network configuration from stdin: more than {LIMIT} bytes")]
    TooLong,
}

/// Reads stdin to the end, giving up after `quiet` without a byte, and after three times that in all.
pub fn read(quiet: Duration) -> Result<Vec<u8>, InputError> {
    read_from(rustix::stdio::stdin(), quiet)
}

fn read_from(stdin: impl AsFd, quiet: Duration) -> Result<Vec<u8>, InputError> {
    let (begun, after) = (Instant::now(), quiet * 3);
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let left = after.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let got = bytes.len();
            return Err(InputError::Slow { got, after });
        }
        let wait = quiet.min(left);
        let timeout = Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if wait < quiet => continue,
            Ok(0) => {
                return Err(InputError::Unending {
                    got: bytes.len(),
                    quiet,
                });
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(source) => return Err(InputError::Read(source.into())),
        }
        bytes.reserve(4096);
        match rustix::io::read(&stdin, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > LIMIT => return Err(InputError::TooLong),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(source) => return Err(InputError::Read(source.into())),
        }
    }
}

#[cfg(test)]
mod tests;
