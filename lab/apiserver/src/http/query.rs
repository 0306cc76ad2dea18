//! Query parameters.

use axum::extract::Query as Pairs;
use http::Uri;

use crate::admission::FieldValidation;
use crate::api::WriteOptions;
use crate::error::ApiError;

/// The query of a request.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    /// Whether a list is to be a watch.
    pub watch: bool,
}

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// 400 where it does not decode.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("query: {e}")))?;
        let mut query = Self {
            pairs,
            watch: false,
        };
        query.watch = query.flag("watch");
        Ok(query)
    }

    /// Value of a parameter, empty where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.pairs
            .iter()
            .find(|(k, _)| k == name)
            .map_or("", |(_, v)| v.as_str())
    }

    /// Whether a parameter is true.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A number, where there is one.
    ///
    /// # Errors
    /// 400 where it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("{name}: \"{text}\" is not a number"))),
        }
    }

    /// `resourceVersion`; `None` where any will do (absent or 0).
    ///
    /// # Errors
    /// 400 where it is no version of this server.
    pub fn version(&self) -> Result<Option<u64>, ApiError> {
        match self.text("resourceVersion") {
            "" | "0" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("resourceVersion: Invalid value: \"{text}\""))
            }),
        }
    }

    /// How a write is to be done.
    ///
    /// # Errors
    /// 400 for a value that is not understood.
    pub fn write_options(&self) -> Result<WriteOptions, ApiError> {
        Ok(WriteOptions {
            dry_run: dry_run(self.text("dryRun"))?,
            fields: match self.text("fieldValidation") {
                "" | "Warn" => FieldValidation::Warn,
                "Ignore" => FieldValidation::Ignore,
                "Strict" => FieldValidation::Strict,
                other => {
                    return Err(ApiError::bad_request(format!(
                        "fieldValidation: Unsupported value: \"{other}\""
                    )));
                }
            },
        })
    }
}

/// Value of `dryRun`.
///
/// # Errors
/// 400 for anything but `All`.
pub fn dry_run(text: &str) -> Result<bool, ApiError> {
    match text {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!(
            "dryRun: Unsupported value: \"{other}\""
        ))),
    }
}

/// Decodes `%XX`; `None` where that is broken or no UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            // The sign that a number may have is no digit.
            let is_hex = |digits: &&str| digits.bytes().all(|b| b.is_ascii_hexdigit());
            let digits = text.get(i + 1..i + 3).filter(is_hex)?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz() {
        tombolo_fuzz::Target::new("lab-query").check(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Some(decoded) = percent_decode(&text) {
                assert!(decoded.len() <= text.len());
                if !text.contains('%') {
                    assert_eq!(decoded, text);
                }
            }
            if let Ok(uri) = format!("/x?{text}").parse::<Uri>()
                && let Ok(query) = Query::parse(&uri)
            {
                drop((
                    query.version(),
                    query.number("limit"),
                    query.write_options(),
                ));
            }
        });
    }

    #[test]
    fn decoding() {
        assert_eq!(percent_decode("a%3Ab").as_deref(), Some("a:b"));
        assert_eq!(percent_decode("a%3"), None);
        assert_eq!(percent_decode("a%ff"), None);
        assert_eq!(percent_decode("a%+1"), None);
        let uri: Uri = "/x?&limit=5&labelSelector=a%3Db%2Cc&watch=1"
            .parse()
            .unwrap();
        let query = Query::parse(&uri).unwrap();
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert!(query.watch);
    }
}
