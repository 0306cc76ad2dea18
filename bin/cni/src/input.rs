//! Reads stdin without trusting it to end.

use std::io;
use std::time::Duration;

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
    #[error("read network configuration from stdin: more than {LIMIT} bytes")]
    TooLong,
}

/// Reads to the end, giving up after `quiet` without a byte.
pub fn read(quiet: Duration) -> Result<Vec<u8>, InputError> {
    let stdin = rustix::stdio::stdin();
    let timeout = Timespec {
        tv_sec: quiet.as_secs().cast_signed(),
        tv_nsec: quiet.subsec_nanos().into(),
    };
    let mut bytes = Vec::with_capacity(4096);
    loop {
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
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
        match rustix::io::read(stdin, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > LIMIT => return Err(InputError::TooLong),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(source) => return Err(InputError::Read(source.into())),
        }
    }
}
