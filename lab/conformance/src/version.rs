//! The versions of the specification that the suite speaks.

use std::fmt;

/// A version; later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The first with lists of interfaces and addresses.
    V0_3_0,
    /// As 0.3.0, for us.
    V0_3_1,
    /// The first with CHECK.
    V0_4_0,
    /// The first without `ips[].version`.
    V1_0_0,
    /// The first with GC and STATUS.
    V1_1_0,
}

use Version::{V0_3_0, V0_3_1, V0_4_0, V1_0_0, V1_1_0};

impl Version {
    /// All, the oldest first.
    pub const ALL: [Self; 5] = [V0_3_0, V0_3_1, V0_4_0, V1_0_0, V1_1_0];

    /// As it stands in JSON.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            V0_3_0 => "0.3.0",
            V0_3_1 => "0.3.1",
            V0_4_0 => "0.4.0",
            V1_0_0 => "1.0.0",
            V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
