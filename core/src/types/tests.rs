use tombolo_fuzz::Target;

use super::*;

#[test]
fn fuzz_macs() {
    Target::new("mac").check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(mac) = text.parse::<Mac>() {
            assert_eq!(mac.to_string(), text.to_ascii_lowercase());
        }
        if let Some(six) = bytes.first_chunk() {
            let mac = Mac(*six);
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    });
}

/// Network, container id and interface name, a line each.
#[test]
fn fuzz_attachment_keys() {
    Target::new("attachment-key").check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.splitn(3, '\n').map(str::to_owned);
        let mut part = || lines.next().unwrap_or_default();
        let (network, container_id, ifname) = (part(), part(), part());
        match AttachmentKey::new(&network, &container_id, &ifname) {
            Ok(key) => {
                assert_eq!(
                    (&key.network, &key.container_id, &key.ifname),
                    (&network, &container_id, &ifname)
                );
                // What the kernel is given is what it reads.
                let kernels = |c: u8| !matches!(c, b'/' | b':' | b'%' | 0..=32 | 127);
                assert!((1..=15).contains(&ifname.len()) && ifname.bytes().all(kernels));
                assert_eq!(key.host_ifname().0.len(), 15);
                assert_eq!(key.file_stem().len(), 32);
            }
            Err(error) => assert!(!error.problem.is_empty()),
        }
    });
}

#[test]
fn keys_have_a_limit_on_their_size() {
    let name = |length| "a".repeat(length);
    let most = AttachmentKey::MAX_PART;
    assert!(AttachmentKey::new(&name(most), &name(most), "eth0").is_ok());
    for (network, container_id, field) in [(most + 1, 1, "name"), (1, most + 1, "CNI_CONTAINERID")]
    {
        let error = AttachmentKey::new(&name(network), &name(container_id), "eth0").unwrap_err();
        assert_eq!((error.field, error.value.len()), (field, most));
        assert!(
            error.to_string().ends_with("it may have 255 bytes"),
            "{error}"
        );
    }
}

#[test]
fn names_that_the_kernel_reads_otherwise_are_refused() {
    for ifname in ["eth%d", "a\0b", "a\u{7f}", "\u{1}", "a\u{85}b"] {
        assert!(AttachmentKey::new("n", "c", ifname).is_err(), "{ifname:?}");
    }
    for ok in ["eth0", "eth0.5", "é", "a@b"] {
        assert!(AttachmentKey::new("n", "c", ok).is_ok(), "{ok:?}");
    }
    for mac in ["+1:00:00:00:00:00", "02:00:00:00:00:-1"] {
        assert!(mac.parse::<Mac>().is_err(), "{mac}");
    }
}
