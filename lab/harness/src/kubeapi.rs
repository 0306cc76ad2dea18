//! The lab's API server, untyped: what the harness needs of it without linking the product's types.

use anyhow::{Context as _, Result};
use http::Request;
use serde_json::Value;

/// A client of one API server.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// A client for the server at this URL.
    pub fn new(url: &str) -> Result<Self> {
        let config = kube::Config::new(
            url.parse()
                .with_context(|| format!("API server URL {url:?}"))?,
        );
        Ok(Self {
            client: kube::Client::try_from(config).context("API client")?,
        })
    }

    /// One request. `path` is absolute, for example `/api/v1/nodes`.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let payload = body
            .map(serde_json::to_vec)
            .transpose()?
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(payload)?;
        self.client
            .request::<Value>(request)
            .await
            .with_context(|| format!("{method} {path}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, "application/json", None).await
    }

    /// GET; `None` where there is nothing.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        let request = Request::get(path).body(Vec::new())?;
        match self.client.request::<Value>(request).await {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("GET {path}")),
        }
    }

    /// GET of what is no JSON.
    pub async fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(path).body(Vec::new())?;
        let answer = self.client.request_text(request).await;
        answer.with_context(|| format!("GET {path}"))
    }

    /// The items of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut list = self.get(path).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => anyhow::bail!("GET {path}: no items in the reply"),
        }
    }

    /// POST.
    pub async fn create(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("POST", path, "application/json", Some(body))
            .await
    }

    /// JSON merge patch.
    pub async fn merge(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("PATCH", path, "application/merge-patch+json", Some(body))
            .await
    }

    /// DELETE; fine when it is gone already.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let request = Request::delete(path).body(Vec::new())?;
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("DELETE {path}")),
        }
    }
}

/// `value.a.b.c` as text; empty where absent.
#[must_use]
pub fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
