//! Settings below `/proc/sys/net`, always of the calling thread's network namespace. Paths are separated by `/`, so
//! that an interface name with a dot needs no care.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tombolo_core::datapath::Sysctl;

use crate::Error;

/// The present value, without the final newline.
///
/// # Errors
/// [`Error::System`]; see [`Error::is_missing`] for a setting that this kernel or link does not have.
pub fn read(path: &str) -> Result<String, Error> {
    let failed = |source| Error::System {
        operation: "read sysctl",
        subject: format!("net/{path}"),
        source,
    };
    let file = open(path, OFlags::RDONLY).map_err(failed)?;
    let mut buffer = [0; 4096];
    let length = rustix::io::read(&file, &mut buffer).map_err(failed)?;
    let text = std::str::from_utf8(&buffer[..length]).map_err(|_| failed(Errno::ILSEQ))?;
    Ok(text.trim_end().to_owned())
}

/// Writes one setting.
///
/// # Errors
/// [`Error::System`], `EINVAL` where the kernel refuses the value.
pub fn write(setting: &Sysctl) -> Result<(), Error> {
    let failed = |source| Error::System {
        operation: "write sysctl",
        subject: format!("net/{} = {}", setting.path, setting.value),
        source,
    };
    let file = open(&setting.path, OFlags::WRONLY).map_err(failed)?;
    rustix::io::write(&file, setting.value.as_bytes()).map_err(failed)?;
    Ok(())
}

fn open(path: &str, flags: OFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    // A name from outside (of an interface) must not lead elsewhere.
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(Errno::INVAL);
    }
    rustix::fs::open(
        format!("/proc/sys/net/{path}"),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
