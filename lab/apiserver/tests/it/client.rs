//! A plain HTTP client, so that the suite vouches for bytes on the wire and not for a library.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longest wait for an answer or event: long enough for a busy machine, and only reached by a broken server.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub struct Client {
    http: Legacy<HttpConnector, Full<Bytes>>,
    pub url: String,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with that code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }

    /// The body of a failure with that code and reason.
    #[track_caller]
    pub fn fails(self, code: u16, reason: &str) -> Value {
        let body = self.expect(code);
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["status"], "Failure", "{body}");
        assert_eq!(body["reason"], reason, "{body}");
        assert_eq!(body["code"], code, "{body}");
        body
    }
}

impl Client {
    pub fn new(url: &str) -> Self {
        Self {
            http: Legacy::builder(TokioExecutor::new()).build_http(),
            url: url.trim_end_matches('/').to_owned(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(ACCEPT, accept)
            .header(USER_AGENT, "suite/1 (tests)");
        let body = match body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, kind);
                body
            }
            None => Vec::new(),
        };
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        tokio::time::timeout(PATIENCE, self.http.request(request))
            .await
            .expect("an answer in time")
            .unwrap()
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Answer {
        let response = self.send(method, path, accept, body).await;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        Answer {
            code,
            headers,
            body,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, JSON, None).await
    }

    /// The server's version, 1.`minor`.
    pub async fn minor(&self) -> u32 {
        let version = self.get("/version").await.expect(200);
        let minor = version["minor"].as_str().unwrap();
        minor.trim_end_matches('+').parse().unwrap()
    }

    pub async fn table(&self, path: &str) -> Answer {
        self.call(Method::GET, path, TABLE, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.call(Method::POST, path, JSON, Some((JSON, body)))
            .await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.call(Method::PUT, path, JSON, Some((JSON, body))).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.call(Method::PATCH, path, JSON, Some((kind, body)))
            .await
    }

    pub async fn delete(&self, path: &str, options: Option<&Value>) -> Answer {
        let body = options.map(|o| (JSON, o.to_string().into_bytes()));
        self.call(Method::DELETE, path, JSON, body).await
    }

    /// A watch; `path` carries the query but for `watch`.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, JSON).await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let sign = if path.contains('?') { '&' } else { '?' };
        let response = self
            .send(
                Method::GET,
                &format!("{path}{sign}watch=true"),
                accept,
                None,
            )
            .await;
        assert_eq!(response.status(), 200, "watch {path}");
        Watch {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

pub struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` where the server ended the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event or the end in time")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// The next event, as its type and object.
    pub async fn event(&mut self) -> (String, Value) {
        let mut event = self.next().await.expect("an event");
        let kind = event["type"].as_str().unwrap().to_owned();
        (kind, event["object"].take())
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        let (kind, object) = self.event().await;
        format!(
            "{kind} {}",
            object["metadata"]["name"].as_str().unwrap_or("-")
        )
    }

    /// Reads until an event of that type of that object.
    pub async fn until(&mut self, kind: &str, name: &str) -> Value {
        loop {
            let (k, object) = self.event().await;
            if k == kind && object["metadata"]["name"] == name {
                return object;
            }
        }
    }
}
