//! Create, replace, patch, delete and bind over HTTP.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::negotiate::Accept;
use super::query::{Query, dry_run};
use super::read::{include, selector, shape};
use super::{App, BODY_LIMIT, Target, reply};
use crate::admission;
use crate::api::{DeleteOptions, Deleted, Propagation, Written, wire};
use crate::error::{self, ApiError};
use crate::object::{self, text};
use crate::patch::Patch;

/// POST on a collection.
pub async fn create(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let body = decode(request).await?;
    let namespace = if target.namespace.is_empty() && target.res.namespaced {
        // A real server has no POST on all namespaces, but takes the object's own.
        object::namespace(&body).to_owned()
    } else {
        target.namespace.clone()
    };
    let options = query.write_options()?;
    let written = app.api.create(&target.res, &namespace, body, options)?;
    answer(target, &written, query, accept)
}

/// PUT on an object or its status.
pub async fn replace(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let body = decode(request).await?;
    let options = query.write_options()?;
    let written = app
        .api
        .replace(&target.res, place(target), aim(target), body, options)?;
    answer(target, &written, query, accept)
}

/// PATCH on an object or its status.
pub async fn patch(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let kind = content_type(request.headers());
    let body = read(request).await?;
    let patch = Patch::parse(&target.res, &kind, &body)?;
    let options = query.write_options()?;
    let written = app
        .api
        .patch(&target.res, place(target), aim(target), &patch, options)?;
    answer(target, &written, query, accept)
}

/// POST on `pods/<name>/binding`.
pub async fn bind(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
) -> Result<Response, ApiError> {
    let binding = decode(request).await?;
    if dry_run(query.text("dryRun"))? {
        return Err(ApiError::bad_request(
            "dryRun is not supported for bindings",
        ));
    }
    app.api.bind(&target.res, place(target), &binding)?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    Ok(reply(StatusCode::CREATED, &status))
}

/// DELETE on an object.
pub async fn delete(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let options = delete_options(request, query).await?;
    let res = &target.res;
    let body = match app.api.delete(res, place(target), &options)? {
        Deleted::Marked(object) => shape(res, &object, accept, include(query)?, true),
        // Kinds for which a real server answers with the object that is gone.
        Deleted::Gone(object)
            if matches!(
                res.qualified().as_str(),
                "pods" | "services" | "serviceaccounts"
            ) =>
        {
            shape(res, &object, accept, include(query)?, true)
        }
        Deleted::Gone(object) => error::success(res, object::name(&object), object::uid(&object)),
    };
    Ok(reply(StatusCode::OK, &body))
}

/// DELETE on a collection: every selected object, with the same options.
pub async fn delete_collection(
    app: &App,
    target: &Target,
    request: Request,
    query: &Query,
) -> Result<Response, ApiError> {
    let res = &target.res;
    let selector = selector(target, query)?;
    let options = delete_options(request, query).await?;
    let objects = app
        .api
        .store
        .tx(|s| s.list(&res.collection, &target.namespace));
    let mut items = Vec::new();
    for object in objects.iter().filter(|o| selector.matches(o)) {
        let at = (object::namespace(object), object::name(object));
        match app.api.delete(res, at, &options) {
            Ok(Deleted::Gone(o) | Deleted::Marked(o)) => items.push(wire(res, &o).into_owned()),
            // Somebody else was faster.
            Err(e) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    let version = app.api.store.tx(|s| s.version());
    let list = json!({
        "kind": res.list_kind, "apiVersion": res.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    });
    Ok(reply(StatusCode::OK, &list))
}

async fn delete_options(request: Request, query: &Query) -> Result<DeleteOptions, ApiError> {
    let body = read(request).await?;
    let body: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(&body)
            .map_err(|e| ApiError::bad_request(format!("error decoding DeleteOptions: {e}")))?
    };
    let from_query = query.number("gracePeriodSeconds")?;
    let policy = match text(&body, "/propagationPolicy") {
        "" => query.text("propagationPolicy"),
        policy => policy,
    };
    let orphan = body["orphanDependents"] == true || query.flag("orphanDependents");
    let dry = object::list(&body, "/dryRun").first();
    let dry = dry.and_then(Value::as_str).unwrap_or(query.text("dryRun"));
    Ok(DeleteOptions {
        grace: body["gracePeriodSeconds"]
            .as_i64()
            .or(from_query.and_then(|n| i64::try_from(n).ok())),
        uid: text(&body, "/preconditions/uid").to_owned(),
        version: text(&body, "/preconditions/resourceVersion").to_owned(),
        propagation: match policy {
            "Orphan" => Propagation::Orphan,
            "" if orphan => Propagation::Orphan,
            "" | "Background" => Propagation::Background,
            "Foreground" => Propagation::Foreground,
            other => {
                return Err(ApiError::bad_request(format!(
                    "propagationPolicy: Unsupported value: \"{other}\""
                )));
            }
        },
        dry_run: dry_run(dry)?,
    })
}

fn place(target: &Target) -> (&str, &str) {
    (
        &target.namespace,
        target.name.as_deref().unwrap_or_default(),
    )
}

fn aim(target: &Target) -> admission::Target {
    if target.sub.as_deref() == Some("status") {
        admission::Target::Status
    } else {
        admission::Target::Object
    }
}

fn answer(
    target: &Target,
    written: &Written,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = shape(&target.res, &written.object, accept, include(query)?, true);
    let mut response = reply(status, &body);
    for warning in &written.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// A body as JSON, whether it came so or as YAML.
async fn decode(request: Request) -> Result<Value, ApiError> {
    let kind = content_type(request.headers());
    let body = read(request).await?;
    match kind.as_str() {
        "" | "application/json" => serde_json::from_slice(&body)
            .map_err(|e| ApiError::bad_request(format!("error decoding the body: {e}"))),
        "application/yaml" => serde_norway::from_slice(&body)
            .map_err(|e| ApiError::bad_request(format!("error decoding the body: {e}"))),
        _ => Err(ApiError::unsupported_media(
            "application/json, application/yaml",
        )),
    }
}

async fn read(request: Request) -> Result<Bytes, ApiError> {
    to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|_| ApiError::too_large(BODY_LIMIT))
}

/// Media type of the body without parameters.
fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}
