//! Netlink messages as bytes: one builder for all families, and a reader of what the kernel answers.

use std::net::IpAddr;

use rustix::io::Errno;
use tombolo_core::types::{Family, Mac};

use crate::Error;
use crate::abi::{AF_INET, AF_INET6, nlm};

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Selects the number of an attribute.
const TYPE_MASK: u16 = 0x3fff;

/// One message to the kernel, with the words that an error about it uses.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) operation: &'static str,
    pub(crate) subject: String,
    pub(crate) tolerated: Option<Errno>,
    pub(crate) body: Body,
}

impl Request {
    pub(crate) fn new(
        operation: &'static str,
        subject: impl Into<String>,
        kind: u16,
        flags: u16,
        header: &[u8],
    ) -> Self {
        Self {
            operation,
            subject: subject.into(),
            tolerated: None,
            body: Body::new(kind, flags, header),
        }
    }

    /// Counts this error as success (for example: already there).
    #[must_use]
    pub fn tolerate(mut self, errno: Errno) -> Self {
        self.tolerated = Some(errno);
        self
    }

    pub(crate) fn refused(self, errno: Errno, message: Option<String>) -> Error {
        Error::Refused {
            operation: self.operation,
            subject: self.subject,
            source: errno,
            message,
        }
    }

    pub(crate) fn too_long(&self, limit: usize) -> Error {
        Error::TooLong {
            operation: self.operation,
            subject: self.subject.clone(),
            limit,
        }
    }

    pub(crate) fn malformed(&self, problem: &'static str) -> Error {
        Error::Malformed {
            operation: self.operation,
            subject: self.subject.clone(),
            problem,
        }
    }
}

/// A message under construction. Length, sequence number and port are filled in when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | nlm::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        debug_assert!(
            usize::from(length) == value.len() + 4,
            "an attribute has at most 65531 bytes"
        );
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad()
    }

    pub fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// nf_tables numbers are big-endian.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Text, with the zero byte that the kernel expects at its end.
    pub fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes)
    }

    pub fn put_ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(ip) => self.put(kind, &ip.octets()),
            IpAddr::V6(ip) => self.put(kind, &ip.octets()),
        }
    }

    pub fn put_mac(&mut self, kind: u16, value: Mac) -> &mut Self {
        self.put(kind, &value.0)
    }

    /// Bytes without an attribute header (a fixed structure inside an attribute).
    pub fn put_raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.pad()
    }

    /// An attribute that holds what `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        debug_assert!(
            usize::from(length) == self.0.len() - start,
            "a nest has at most 65535 bytes"
        );
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) -> &mut Self {
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// Length of the message, its header included, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends the finished message to what will be sent.
    pub fn finish(&self, flags: u16, seq: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.0);
        let message = &mut out[start..];
        let own_flags = u16::from_ne_bytes([message[6], message[7]]);
        message[..4]
            .copy_from_slice(&(u32::try_from(self.0.len()).unwrap_or(u32::MAX)).to_ne_bytes());
        message[6..8].copy_from_slice(&(own_flags | flags).to_ne_bytes());
        message[8..12].copy_from_slice(&seq.to_ne_bytes());
    }
}

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub port: u32,
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The first message in `buffer` and what follows it; `None` at the end, or where the buffer is cut short.
    pub fn split(buffer: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::try_from(u32_at(buffer, 0)?).ok()?;
        let payload = buffer.get(nlm::HEADER..length)?;
        let reply = Self {
            kind: u16_at(buffer, 4)?,
            flags: u16_at(buffer, 6)?,
            seq: u32_at(buffer, 8)?,
            port: u32_at(buffer, 12)?,
            payload,
        };
        Some((reply, buffer.get(align(length)..).unwrap_or_default()))
    }

    /// The attributes after a fixed header of this length.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes(self.payload.get(align(header)..).unwrap_or_default())
    }

    /// For an acknowledgement: the error, or none, and the kernel's words.
    pub fn verdict(&self) -> Option<(Option<Errno>, Option<String>)> {
        let code = i32_at(self.payload, 0)?;
        // The kernel's error numbers end at 4095.
        let errno = match code.wrapping_neg() {
            0 => None,
            number @ 1..=4095 => Some(Errno::from_raw_os_error(number)),
            _ => Some(Errno::IO),
        };
        // After the code comes the header of the request, and the whole request unless it was capped.
        let offset = if self.kind == nlm::DONE {
            4
        } else if self.flags & nlm::CAPPED != 0 {
            4 + nlm::HEADER
        } else {
            4 + align(usize::try_from(u32_at(self.payload, 4)?).ok()?)
        };
        let words = (self.flags & nlm::ACK_TLVS != 0)
            .then(|| Attributes(self.payload.get(offset..).unwrap_or_default()))
            .and_then(|mut attributes| attributes.find(|(kind, _)| *kind == nlm::ERR_ATTR_MSG))
            .and_then(|(_, value)| text(value));
        Some((errno, words))
    }
}

/// Walks attributes; stops where one is cut short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this number.
    pub fn value(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of this number.
    pub fn inside(self, kind: u16) -> Self {
        Attributes(self.value(kind).unwrap_or_default())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

/// A native number that fills its attribute.
pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    u32_at(value, 0)
}

/// A big-endian number that fills its attribute.
pub(crate) fn be32_of(value: &[u8]) -> Option<u32> {
    array(value, 0).map(u32::from_be_bytes)
}

/// Text up to its zero byte.
pub(crate) fn text(value: &[u8]) -> Option<String> {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok().map(str::to_owned)
}

pub(crate) fn ip_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => array::<4>(value, 0).map(IpAddr::from),
        16 => array::<16>(value, 0).map(IpAddr::from),
        _ => None,
    }
}

pub(crate) fn mac_of(value: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(value).ok().map(Mac)
}

pub(crate) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

pub(crate) const fn family_of(number: u8) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
