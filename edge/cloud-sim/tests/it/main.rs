//! The client against a server that answers what the test says: bytes on a socket, no shared code.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tombolo_cloud_sim::client::{Client, ClientConfig, Endpoint, Error};
use tombolo_cloud_sim::wire::{DeleteNic, DescribeVpc};
use tombolo_core::types::Reason;

const CONFIG: ClientConfig = ClientConfig {
    timeout: Duration::from_secs(5),
    max_reply: 200,
};

/// Reads one request and answers. Returns the request's text.
async fn answer<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    mut stream: S,
    status: &str,
    body: &str,
) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 4096];
    while !text.ends_with('}') {
        let read = stream.read(&mut buffer).await.expect("read");
        assert!(read > 0, "the client hung up: {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all((head + body).as_bytes())
        .await
        .expect("write");
    text
}

async fn tcp(
    status: &'static str,
    body: &'static str,
) -> (Client, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        answer(stream, status, body).await
    });
    (
        Client::new(endpoint.parse().expect("endpoint"), CONFIG),
        task,
    )
}

#[tokio::test]
async fn a_call_over_tcp() {
    let (client, server) = tcp("200 OK", r#"{"id":"vpc-1","cidrs":["10.0.0.0/16"]}"#).await;
    let vpc = client.call(&DescribeVpc {}).await.expect("vpc");
    assert_eq!(vpc.id, "vpc-1");
    let request = server.await.expect("server");
    assert!(
        request.starts_with("POST /v1/DescribeVpc HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
}

#[tokio::test]
async fn a_call_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("tombolo-cloud-sim-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("bind");
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        answer(stream, "200 OK", "{}").await
    });
    let client = Client::new(Endpoint::Unix(path.clone()), CONFIG);
    client
        .call(&DeleteNic {
            nic: "eni-1".to_owned(),
        })
        .await
        .expect("reply");
    std::fs::remove_file(&path).expect("remove");
    let request = server.await.expect("server");
    assert!(request.ends_with(r#"{"nic":"eni-1"}"#), "{request}");
}

#[tokio::test]
async fn refusals_carry_their_reason() {
    for (status, body, reason, not_found) in [
        (
            "400 Bad Request",
            r#"{"code":"InsufficientFreeAddressesInSubnet","message":"full"}"#,
            Reason::SubnetFull,
            false,
        ),
        (
            "503 Busy",
            r#"{"code":"RequestLimitExceeded","message":"slow down"}"#,
            Reason::CloudThrottled,
            false,
        ),
        (
            "400 Bad Request",
            r#"{"code":"AttachmentLimitExceeded","message":""}"#,
            Reason::NicLimit,
            false,
        ),
        (
            "400 Bad Request",
            r#"{"code":"PrivateIpAddressLimitExceeded","message":""}"#,
            Reason::AddressLimit,
            false,
        ),
        (
            "404 Gone",
            r#"{"code":"InvalidNetworkInterfaceID.NotFound","message":""}"#,
            Reason::CloudError,
            true,
        ),
    ] {
        let (client, _server) = tcp(status, body).await;
        let error = client.call(&DescribeVpc {}).await.expect_err("refusal");
        assert_eq!(
            (error.reason(), error.is_not_found()),
            (reason, not_found),
            "{body}"
        );
        assert!(!error.outcome_unknown());
        assert!(error.to_string().starts_with("DescribeVpc: "), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_a_reply_is_said() {
    let (client, _server) = tcp("200 OK", "[1, 2]").await;
    let error = client.call(&DescribeVpc {}).await.expect_err("not a Vpc");
    assert!(
        matches!(error, Error::Decode { .. }) && error.outcome_unknown(),
        "{error}"
    );
    let long: &'static str = Box::leak(format!("\"{}\"", "x".repeat(300)).into_boxed_str());
    let (client, _server) = tcp("200 OK", long).await;
    assert!(matches!(
        client.call(&DescribeVpc {}).await,
        Err(Error::TooLong { limit: 200, .. })
    ));
    let (client, _server) = tcp("502 Bad Gateway", "<html>").await;
    assert!(matches!(
        client.call(&DescribeVpc {}).await,
        Err(Error::Decode { .. })
    ));
}

#[tokio::test]
async fn silence_and_absence_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint: Endpoint = format!("http://{}", listener.local_addr().expect("address"))
        .parse()
        .expect("endpoint");
    let config = ClientConfig {
        timeout: Duration::from_millis(20),
        ..CONFIG
    };
    let error = Client::new(endpoint.clone(), config)
        .call(&DescribeVpc {})
        .await
        .expect_err("silence");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    drop(listener);
    let error = Client::new(endpoint, CONFIG)
        .call(&DescribeVpc {})
        .await
        .expect_err("absence");
    assert!(matches!(error, Error::Transport { .. }), "{error}");
    assert_eq!(error.word(), "transport");
}

#[test]
fn endpoints_are_checked() {
    for good in [
        "http://169.254.169.254",
        "http://[fd00::1]:80/",
        "unix:/run/x.sock",
    ] {
        good.parse::<Endpoint>().expect(good);
    }
    for (bad, problem) in [
        ("169.254.169.254:80", "does not begin with http://"),
        ("https://x", "does not begin with http://"),
        ("http://x/v1", "has a path or a query"),
        ("unix:run/x", "has a relative path"),
        ("", "is not a URL"),
    ] {
        assert_eq!(
            bad.parse::<Endpoint>().expect_err(bad).problem,
            problem,
            "{bad:?}"
        );
    }
}
