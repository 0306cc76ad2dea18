//! Random names as runtimes make them.

use rustix::rand::{GetRandomFlags, getrandom};

/// A container id: 64 hexadecimal digits.
///
/// # Errors
/// Where the kernel gives no random bytes.
pub fn container_id() -> std::io::Result<String> {
    Ok(hex(&random::<32>()?))
}

/// A random (version 4) UUID.
///
/// # Errors
/// Where the kernel gives no random bytes.
pub fn uuid() -> std::io::Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    ))
}

fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn have_their_forms() {
        let id = super::container_id().unwrap();
        assert!(
            id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
        let uuid = super::uuid().unwrap();
        assert_eq!(
            uuid.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert_ne!(uuid, super::uuid().unwrap());
    }
}
