use std::convert::Infallible;
use std::future::{Ready, ready};

use http_body_util::{BodyExt, StreamBody};
use kube::api::{Api, ListParams};

use super::*;
use crate::NetworkProfile;

/// An API server that says this, in pieces of so many bytes.
#[derive(Clone)]
struct Says(Vec<u8>, usize);

impl<A> Service<Request<A>> for Says {
    type Response = Response<Pieces>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Pieces>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<A>) -> Self::Future {
        let pieces: Vec<_> = self
            .0
            .chunks(self.1)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        ready(Ok(Response::new(StreamBody::new(futures::stream::iter(
            pieces,
        )))))
    }
}

type Pieces =
    StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn read(uri: &str, says: &[u8], limit: usize) -> Result<usize, String> {
    for piece in [1, 3, 1000] {
        let mut service = Bounds { limit }.layer(Says(says.to_vec(), piece));
        let request = Request::builder().uri(uri).body(()).unwrap();
        let body = service.call(request).await.unwrap().into_body();
        let all = body.collect().await.map_err(|error| error.to_string())?;
        assert_eq!(all.to_bytes(), says);
    }
    Ok(says.len())
}

#[tokio::test]
async fn an_answer_has_a_limit_and_a_watch_one_for_each_event() {
    let lines = b"12345678\n123456789\n1";
    assert_eq!(read("/x", lines, lines.len()).await, Ok(lines.len()));
    let refused = Err("the API server's answer has more than 19 bytes".to_owned());
    assert_eq!(read("/x?limit=5", lines, 19).await, refused);
    assert_eq!(
        read("/x?limit=5&watch=true", lines, 9).await,
        Ok(lines.len())
    );
    assert!(read("/x?watch=true", lines, 8).await.is_err());
    assert!(read("/x?watch=1", b"\n\n123456789", 8).await.is_err());
    assert!(read("/x?watch=1", b"123456789\n\n", 8).await.is_err());
}

#[tokio::test]
async fn the_client_says_so() {
    let bounds = Bounds { limit: 100 };
    let client = ClientBuilder::new(Says(vec![b' '; 200], 50), "default")
        .with_layer(&bounds)
        .build();
    let api: Api<NetworkProfile> = Api::all(client);
    let error = api.list(&ListParams::default()).await.unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(text.contains("has more than 100 bytes"), "{text}");
}

#[test]
fn only_a_certificate_that_is_verified_needs_authorities() {
    for (url, insecure, needs) in [
        ("https://api:6443", false, true),
        ("HTTPS://api:6443", false, true),
        ("https://api:6443", true, false),
        ("http://api:6443", false, false),
        ("HTTP://[::1]", false, false),
    ] {
        let mut config = kube::Config::new(url.parse().unwrap());
        config.accept_invalid_certs = insecure;
        assert_eq!(needs_authorities(&config), needs, "{url} {insecure}");
    }
}
