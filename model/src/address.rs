//! Addresses as small numbers, and sets of them as bits: states are made, hashed and compared by the million.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// A pod address: 10.0.0.0 and up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u8);

impl Address {
    /// As the core knows it.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.0))
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.octets()[3]),
            IpAddr::V6(ip) => Self(ip.octets()[15]),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".{}", self.0)
    }
}

/// Addresses, at most eight.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(u8);

impl Set {
    /// The first so many.
    #[must_use]
    pub const fn first(count: u8) -> Self {
        Self(((1_u16 << count) - 1) as u8)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, address: Address) -> bool {
        self.0 & (1 << address.0) != 0
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, address: Address) -> Self {
        Self(self.0 | (1 << address.0))
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    #[must_use]
    pub const fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// In order.
    pub fn iter(self) -> impl Iterator<Item = Address> {
        (0..8)
            .map(Address)
            .filter(move |address| self.has(*address))
    }

    /// As the core knows them.
    pub fn ips(self) -> BTreeSet<IpAddr> {
        self.iter().map(Address::ip).collect()
    }
}

impl FromIterator<Address> for Set {
    fn from_iter<T: IntoIterator<Item = Address>>(addresses: T) -> Self {
        addresses.into_iter().fold(Self::default(), Self::with)
    }
}

impl<'a> FromIterator<&'a IpAddr> for Set {
    fn from_iter<T: IntoIterator<Item = &'a IpAddr>>(ips: T) -> Self {
        ips.into_iter().map(|ip| Address::from(*ip)).collect()
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
