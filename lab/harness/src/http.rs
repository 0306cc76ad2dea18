//! One-shot HTTP requests: over a unix socket (the simulator), or TCP from inside a node (an agent's own port).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

const BOUND: Duration = Duration::from_secs(10);

/// POSTs JSON to a unix socket.
pub async fn post_unix(socket: &Path, path: &str, body: &Value) -> Result<Value> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    exchange(stream, "POST", path, Some(body))
        .await
        .with_context(|| format!("POST {path} to {}", socket.display()))
}

/// GETs JSON from an address that is reached inside a network namespace.
pub async fn get_in_netns(netns: &str, address: SocketAddr, path: &str) -> Result<Value> {
    let text = get_text_in_netns(netns, address, path).await?;
    serde_json::from_str(&text).with_context(|| format!("decode http://{address}{path} in {netns}"))
}

/// GETs text from an address that is reached inside a network namespace.
pub async fn get_text_in_netns(netns: &str, address: SocketAddr, path: &str) -> Result<String> {
    let name = netns.to_owned();
    let connect = move || -> Result<std::net::TcpStream> {
        let file = std::fs::File::open(&name).with_context(|| format!("open {name}"))?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .with_context(|| format!("enter {name}"))?;
        let stream = std::net::TcpStream::connect_timeout(&address, BOUND)
            .with_context(|| format!("connect to {address} in {name}"))?;
        stream.set_nonblocking(true).context("set non-blocking")?;
        Ok(stream)
    };
    // A thread of its own: it never leaves the namespace that it entered.
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || send.send(connect()));
    let stream = receive.await.context("connecting thread ended")??;
    let stream = tokio::net::TcpStream::from_std(stream).context("register socket")?;
    fetch(stream, "GET", path, None)
        .await
        .with_context(|| format!("GET http://{address}{path} in {netns}"))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value> {
    let text = fetch(stream, method, path, body).await?;
    serde_json::from_str(&text).with_context(|| format!("decode {text:.200}"))
}

async fn fetch(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<String> {
    let work = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let payload = body
            .map(serde_json::to_vec)
            .transpose()?
            .unwrap_or_default();
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lab")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(payload)))?;
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        let bytes = reply.into_body().collect().await?.to_bytes();
        driver.abort();
        let text = String::from_utf8(bytes.to_vec())?;
        if !status.is_success() {
            bail!("HTTP {status}: {text:.400}");
        }
        Ok(text)
    };
    tokio::time::timeout(BOUND, work)
        .await
        .map_err(|_| anyhow!("no answer within {BOUND:?}"))?
}
