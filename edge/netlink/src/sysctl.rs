//! Settings below `/proc/sys/net`, always of the calling thread's network namespace. Paths are separated by `/`, so
//! that an interface name with a dot needs no care.

use tombolo_core::datapath::Sysctl;

use crate::Error;

/// The present value, without the final newline.
pub fn read(_path: &str) -> Result<String, Error> {
    todo!()
}

/// Writes one setting.
pub fn write(_setting: &Sysctl) -> Result<(), Error> {
    todo!()
}
