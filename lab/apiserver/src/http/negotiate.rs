//! What form a client wants its answer in, by its Accept header.

use http::{HeaderMap, header};

use crate::error::ApiError;

/// Form of the objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// As they are.
    Plain,
    /// Rows of a table.
    Table,
    /// Their metadata only.
    Metadata,
}

impl Accept {
    /// The first form in the header that is served.
    ///
    /// # Errors
    /// 406 where none is.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = accept(headers);
        if text.is_empty() {
            return Ok(Self::Plain);
        }
        for range in text.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let parameters: Vec<&str> = parts.collect();
            let form = parameters.iter().find_map(|p| p.strip_prefix("as="));
            match form {
                None => return Ok(Self::Plain),
                // v1beta1 of the table has the same shape, but clients that offer it offer v1 too.
                Some("Table") if parameters.contains(&"v=v1") => return Ok(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList")
                    if parameters.contains(&"v=v1") =>
                {
                    return Ok(Self::Metadata);
                }
                Some(_) => {}
            }
        }
        Err(ApiError::not_acceptable("application/json"))
    }
}

/// The version of the aggregated discovery document that a client takes before a plain one.
pub fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    accept(headers)
        .split(',')
        .filter(|range| range.contains("as=APIGroupDiscoveryList"))
        .find_map(|range| {
            let has = |version: &str| range.split(';').any(|p| p.trim() == version);
            ["v2", "v2beta1"]
                .into_iter()
                .find(|v| has(&format!("v={v}")))
        })
}

fn accept(headers: &HeaderMap) -> &str {
    headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str) -> Result<Accept, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(text));
        Accept::of(&headers).map_err(|e| e.code)
    }

    #[test]
    fn forms() {
        assert_eq!(
            of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Ok(Accept::Table)
        );
        assert_eq!(of("application/json;as=Table;v=v9, */*"), Ok(Accept::Plain));
        assert_eq!(
            of("application/vnd.kubernetes.protobuf,application/json"),
            Ok(Accept::Plain)
        );
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(Accept::of(&HeaderMap::new()).unwrap(), Accept::Plain);
    }
}
