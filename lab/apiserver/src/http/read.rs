//! Get and list.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::negotiate::Accept;
use super::query::Query;
use super::{App, Target, reply};
use crate::api::wire;
use crate::error::ApiError;
use crate::object;
use crate::registry::Resource;
use crate::selector::Selector;
use crate::store::State;
use crate::table::{self, Include};

/// One object.
pub fn get(
    app: &App,
    target: &Target,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let name = target.name.as_deref().unwrap_or_default();
    let object = app.api.get(&target.res, &target.namespace, name)?;
    let body = shape(&target.res, &object, accept, include(query)?, true);
    Ok(reply(StatusCode::OK, &body))
}

/// A stored object in the form that the client wants.
pub fn shape(
    res: &Resource,
    object: &Value,
    accept: Accept,
    include: Include,
    headings: bool,
) -> Value {
    let object = wire(res, object);
    match accept {
        Accept::Plain => object.into_owned(),
        Accept::Metadata => table::metadata_only(&object),
        Accept::Table => {
            let mut table = table::table(res, &[&object], include, headings);
            table["metadata"]["resourceVersion"] = json!(object::version(&object));
            table
        }
    }
}

/// `includeObject` of a table.
///
/// # Errors
/// 400 for a value that is not understood.
pub fn include(query: &Query) -> Result<Include, ApiError> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(ApiError::bad_request(format!(
            "includeObject: Unsupported value: \"{other}\""
        ))),
    }
}

/// The selected objects, page by page where the client wants that.
pub fn list(
    app: &App,
    target: &Target,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let res = &target.res;
    let selector = selector(target, query)?;
    let page = app
        .api
        .store
        .tx(|s| page(s, res, &target.namespace, query, &selector))?;
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some((token, rest)) = &page.next {
        metadata["continue"] = json!(token);
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(rest);
        }
    }
    let items: Vec<_> = page.items.iter().map(|o| wire(res, o)).collect();
    let body = match accept {
        Accept::Plain => json!({
            "kind": res.list_kind, "apiVersion": res.api_version(), "metadata": metadata, "items": items,
        }),
        Accept::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": items.iter().map(|o| table::metadata_only(o)).collect::<Vec<_>>(),
        }),
        Accept::Table => {
            let rows: Vec<&Value> = items.iter().map(AsRef::as_ref).collect();
            let mut table = table::table(res, &rows, include(query)?, true);
            table["metadata"] = metadata;
            table
        }
    };
    Ok(reply(StatusCode::OK, &body))
}

/// The selector of a list or watch.
pub fn selector(target: &Target, query: &Query) -> Result<Selector, ApiError> {
    Selector::parse(
        &target.res,
        query.text("labelSelector"),
        query.text("fieldSelector"),
    )
}

struct Page {
    items: Vec<Arc<Value>>,
    version: u64,
    /// Token of the next page, and how many objects are on it and after it.
    next: Option<(String, usize)>,
}

fn page(
    s: &State,
    res: &Resource,
    namespace: &str,
    query: &Query,
    selector: &Selector,
) -> Result<Page, ApiError> {
    let current = s.version();
    let gone = |e: crate::store::Expired| ApiError::expired(e.to_string());
    let token = query.text("continue");
    let (version, after, all) = if token.is_empty() {
        match (query.version()?, query.text("resourceVersionMatch")) {
            (Some(v), "Exact") => (
                v,
                None,
                s.list_at(&res.collection, namespace, v).map_err(gone)?,
            ),
            (None, "Exact") => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch: Exact needs a resourceVersion",
                ));
            }
            (Some(v), _) if v > current => return Err(ApiError::future_version(v, current)),
            _ => (current, None, s.list(&res.collection, namespace)),
        }
    } else {
        let (version, after) = read_token(token)?;
        let all = s.list_at(&res.collection, namespace, version).map_err(|_| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a new \
                 list without the continue parameter.",
            )
        })?;
        (version, Some(after), all)
    };
    let place = |o: &Value| (object::namespace(o).to_owned(), object::name(o).to_owned());
    let mut items: Vec<Arc<Value>> = all
        .into_iter()
        .filter(|o| after.as_ref().is_none_or(|after| place(o) > *after))
        .filter(|o| selector.matches(o))
        .collect();
    let limit = query.number("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut next = None;
    if limit > 0 && items.len() > limit {
        let rest = items.len() - limit;
        items.truncate(limit);
        next = items
            .last()
            .map(|last| (write_token(version, &place(last)), rest));
    }
    Ok(Page {
        items,
        version,
        next,
    })
}

/// A continue token: version, then namespace and name of the last object, in hex so that nobody reads meaning into it.
fn write_token(version: u64, (namespace, name): &(String, String)) -> String {
    format!("{version}/{namespace}/{name}")
        .bytes()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn read_token(token: &str) -> Result<(u64, (String, String)), ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let bytes: Option<Vec<u8>> = (0..token.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(token.get(i..i + 2)?, 16).ok())
        .collect();
    let text = bytes
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(bad)?;
    match text.splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [version, namespace, name] => {
            let version = version.parse().map_err(|_| bad())?;
            Ok((version, ((*namespace).to_owned(), (*name).to_owned())))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way() {
        let place = ("ns".to_owned(), "a.b-c".to_owned());
        assert_eq!(read_token(&write_token(42, &place)).unwrap(), (42, place));
        for broken in ["x", "zz", "00", "e9"] {
            assert_eq!(read_token(broken).unwrap_err().code, 400);
        }
    }
}
