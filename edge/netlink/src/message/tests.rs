use super::*;

fn finished(body: &Body) -> Vec<u8> {
    let mut out = Vec::new();
    body.finish(nlm::ACK, 7, &mut out);
    out
}

#[test]
fn what_is_built_is_read_back() {
    let mut body = Body::new(16, nlm::CREATE, &[1, 2, 3, 4]);
    body.put_u32(1, 0xdead_beef)
        .put_str(2, "eth0")
        .nest(3, |inner| {
            inner.put_u8(4, 9).nest(5, |deeper| {
                deeper.put_be32(6, 42);
            });
        });
    body.put(7, b"end");
    let bytes = finished(&body);
    let (reply, rest) = Reply::split(&bytes).unwrap();
    assert!(rest.is_empty());
    assert_eq!(
        (reply.kind, reply.seq, reply.flags),
        (16, 7, nlm::REQUEST | nlm::CREATE | nlm::ACK)
    );
    let attributes = reply.attributes(4);
    assert_eq!(attributes.value(1).and_then(u32_of), Some(0xdead_beef));
    assert_eq!(attributes.value(2).and_then(text).as_deref(), Some("eth0"));
    assert_eq!(attributes.inside(3).value(4), Some(&[9][..]));
    assert_eq!(
        attributes.inside(3).inside(5).value(6).and_then(be32_of),
        Some(42)
    );
    assert_eq!(attributes.value(7), Some(&b"end"[..]));
    assert_eq!(attributes.count(), 4);
}

#[test]
fn every_truncation_is_read_without_panic() {
    let mut body = Body::new(16, 0, &[0; 16]);
    body.put_str(3, "eth0").nest(18, |inner| {
        inner.put_str(1, "veth");
    });
    let bytes = finished(&body);
    for end in 0..bytes.len() {
        assert!(
            Reply::split(&bytes[..end]).is_none(),
            "a message cut at {end} is not one"
        );
        let _ = Attributes(&bytes[..end]).count();
        let _ = Attributes(&bytes[end..]).count();
        let cut = Reply {
            kind: nlm::ERROR,
            flags: nlm::ACK_TLVS,
            seq: 0,
            port: 0,
            payload: &bytes[..end],
        };
        let _ = cut.verdict();
    }
}

#[test]
fn a_refusal_carries_the_kernels_words() {
    let mut payload = (-22_i32).to_ne_bytes().to_vec();
    payload.extend_from_slice(&[0; nlm::HEADER]);
    let mut words = Body::new(0, 0, &[]);
    words.put_str(nlm::ERR_ATTR_MSG, "no such table");
    payload.extend_from_slice(&finished(&words)[nlm::HEADER..]);
    let reply = Reply {
        kind: nlm::ERROR,
        flags: nlm::CAPPED | nlm::ACK_TLVS,
        seq: 1,
        port: 0,
        payload: &payload,
    };
    assert_eq!(
        reply.verdict(),
        Some((Some(Errno::INVAL), Some("no such table".to_owned())))
    );
}
