//! The HTTP face: paths to operations, results and errors to responses.

mod negotiate;
mod query;
mod read;
mod watch;
mod write;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::Api;
use crate::counters::{Call, Counters};
use crate::discovery;
use crate::error::ApiError;
use crate::registry::Resource;
use crate::store::Backup;

use negotiate::Accept;
use query::Query;

/// Largest request body in bytes, as a real server has it.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// What every request reaches.
#[derive(Debug)]
pub struct App {
    /// The operations.
    pub api: Arc<Api>,
    /// Counts of requests.
    pub counters: Counters,
    /// Time between bookmarks of a watch.
    pub bookmark_every: Duration,
    paused: Mutex<Option<Instant>>,
    backup: Mutex<Option<Backup>>,
    /// Its value changes when running watches have to end.
    cut: tokio::sync::watch::Sender<u64>,
}

impl App {
    /// The face of an API.
    pub fn new(api: Arc<Api>, bookmark_every: Duration) -> Self {
        Self {
            api,
            counters: Counters::default(),
            bookmark_every,
            paused: Mutex::new(None),
            backup: Mutex::new(None),
            cut: tokio::sync::watch::channel(0).0,
        }
    }

    /// Ends all watches.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// Answers 503 to all API requests for that time and ends all watches; zero makes it available at once.
    pub fn pause(&self, time: Duration) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
        if !time.is_zero() {
            self.cut_watches();
        }
    }

    /// Keeps all objects as they are, to go back to.
    pub fn back_up(&self) {
        let backup = self.api.store.tx(|state| state.backup());
        *self.backup.lock().unwrap_or_else(PoisonError::into_inner) = Some(backup);
    }

    /// Goes back to what was kept last and ends all watches; false where nothing was kept.
    pub fn restore(&self) -> bool {
        let backup = self.backup.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(backup) = backup.as_ref() else {
            return false;
        };
        self.api.store.tx(|state| state.restore(backup));
        self.cut_watches();
        true
    }

    fn is_paused(&self) -> bool {
        let until = *self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|t| t > Instant::now())
    }
}

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new().fallback(handle).with_state(app)
}

/// A document in clients' own encoding that describes nothing, so that they leave validation to the server: an empty message.
fn no_schemas() -> Response {
    let mut response = Response::new(Body::empty());
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A request on objects, taken apart.
struct Target {
    res: Arc<Resource>,
    namespace: String,
    name: Option<String>,
    sub: Option<String>,
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    match route(&app, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = reply(
                StatusCode::from_u16(error.code).unwrap_or_default(),
                &error.status(),
            );
            if error.code == 503 {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

async fn route(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let uri = request.uri().clone();
    let path = segments(&uri)?;
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let query = Query::parse(&uri)?;
    if let ["lab", "v1", what] = parts.as_slice() {
        return lab(app, request.method(), what, &query);
    }
    if let ["healthz" | "livez" | "readyz", ..] | ["version"] | [] = parts.as_slice() {
        count(app, &request, None, &query);
        if app.is_paused() {
            return Err(ApiError::unavailable());
        }
        return Ok(match parts.first() {
            Some(&"version") => reply(StatusCode::OK, &discovery::version()),
            None => reply(
                StatusCode::OK,
                &json!({"paths": ["/api", "/apis", "/healthz", "/version"]}),
            ),
            Some(_) => text("ok"),
        });
    }
    if let ["openapi", "v2"] = parts.as_slice() {
        count(app, &request, None, &query);
        if app.is_paused() {
            return Err(ApiError::unavailable());
        }
        return Ok(no_schemas());
    }
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => {
            count(app, &request, None, &query);
            if app.is_paused() {
                return Err(ApiError::unavailable());
            }
            return discover(app, &request, &parts);
        }
    };
    let target = resolve(app, group, version, rest);
    count(app, &request, target.as_ref().ok(), &query);
    if app.is_paused() {
        return Err(ApiError::unavailable());
    }
    objects(app, target?, request, &query).await
}

/// The operation on objects that method, path and query ask for.
async fn objects(
    app: &Arc<App>,
    target: Target,
    request: Request,
    query: &Query,
) -> Result<Response, ApiError> {
    let accept = Accept::of(request.headers())?;
    match (request.method(), &target.name, target.sub.as_deref()) {
        (&Method::GET, None, None) if query.watch => watch::start(app, &target, query, accept),
        (&Method::GET, None, None) => read::list(app, &target, query, accept),
        (&Method::GET, Some(_), None | Some("status")) => read::get(app, &target, query, accept),
        (&Method::POST, None, None) => write::create(app, &target, request, query, accept).await,
        (&Method::POST, Some(_), Some("binding")) => {
            write::bind(app, &target, request, query).await
        }
        (&Method::PUT, Some(_), None | Some("status")) => {
            write::replace(app, &target, request, query, accept).await
        }
        (&Method::PATCH, Some(_), None | Some("status")) => {
            write::patch(app, &target, request, query, accept).await
        }
        (&Method::DELETE, Some(_), None) => {
            write::delete(app, &target, request, query, accept).await
        }
        (&Method::DELETE, None, None) => {
            write::delete_collection(app, &target, request, query).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The part of the path after group and version.
fn resolve(app: &App, group: &str, version: &str, rest: &[&str]) -> Result<Target, ApiError> {
    // `namespaces/x` is an object, `namespaces/x/status` its status, `namespaces/x/pods` a list in it.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, sub] => (plural, Some(name), Some(*sub)),
        _ => return Err(ApiError::no_such_path()),
    };
    let registry = app.api.registry();
    let res = registry
        .find(group, version, plural)
        .ok_or_else(ApiError::no_such_path)?;
    let known = sub.is_none_or(|sub| res.subresources().contains(&sub));
    let scoped = if res.namespaced {
        !namespace.is_empty() || name.is_none()
    } else {
        namespace.is_empty()
    };
    if !known || !scoped {
        return Err(ApiError::no_such_path());
    }
    Ok(Target {
        res,
        namespace: namespace.to_owned(),
        name: name.map(|n| (*n).to_owned()),
        sub: sub.map(str::to_owned),
    })
}

fn discover(app: &App, request: &Request, parts: &[&str]) -> Result<Response, ApiError> {
    if request.method() != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let registry = app.api.registry();
    let document = match parts {
        ["api"] | ["apis"] => {
            let core = parts == ["api"];
            if let Some(version) = negotiate::aggregated(request.headers()) {
                let mut response = reply(
                    StatusCode::OK,
                    &discovery::aggregated(&registry, core, version),
                );
                let kind = format!(
                    "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                );
                if let Ok(kind) = HeaderValue::from_str(&kind) {
                    response.headers_mut().insert(header::CONTENT_TYPE, kind);
                }
                return Ok(response);
            }
            Some(if core {
                discovery::core_versions()
            } else {
                discovery::groups(&registry)
            })
        }
        ["api", version] => discovery::resources(&registry, "", version),
        ["apis", group] => discovery::group(&registry, group),
        ["apis", group, version] => discovery::resources(&registry, group, version),
        _ => None,
    };
    let document = document.ok_or_else(ApiError::no_such_path)?;
    Ok(reply(StatusCode::OK, &document))
}

/// The lab's own paths: counters and faults.
fn lab(app: &App, method: &Method, what: &str, query: &Query) -> Result<Response, ApiError> {
    match (method, what) {
        (&Method::GET, "calls") => Ok(reply(StatusCode::OK, &app.counters.report())),
        (&Method::DELETE, "calls") => {
            app.counters.reset();
            Ok(reply(StatusCode::OK, &json!({})))
        }
        (&Method::POST, "pause") => {
            let seconds = query.number("seconds")?.ok_or_else(|| {
                ApiError::bad_request("pause: query parameter seconds is missing")
            })?;
            app.pause(Duration::from_secs(seconds));
            Ok(reply(StatusCode::OK, &json!({"seconds": seconds})))
        }
        (&Method::POST, "backup") => {
            app.back_up();
            Ok(reply(StatusCode::OK, &json!({})))
        }
        (&Method::POST, "restore") if app.restore() => Ok(reply(StatusCode::OK, &json!({}))),
        (&Method::POST, "restore") => Err(ApiError::bad_request("restore: there is no backup")),
        (_, "calls" | "pause" | "backup" | "restore") => Err(ApiError::method_not_allowed()),
        _ => Err(ApiError::no_such_path()),
    }
}

fn count(app: &App, request: &Request, target: Option<&Target>, query: &Query) {
    let agent = request
        .headers()
        .get(header::USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_whitespace().next())
        .unwrap_or("-");
    let method = request.method();
    let call = match target {
        Some(target) => Call {
            user_agent: agent.to_owned(),
            verb: verb(method, target.name.is_some(), query.watch).to_owned(),
            group: target.res.group.clone(),
            resource: match &target.sub {
                Some(sub) => format!("{}/{sub}", target.res.plural),
                None => target.res.plural.clone(),
            },
        },
        None => Call {
            user_agent: agent.to_owned(),
            verb: method.as_str().to_lowercase(),
            group: String::new(),
            resource: request.uri().path().to_owned(),
        },
    };
    app.counters.count(call);
}

fn verb(method: &Method, named: bool, watch: bool) -> &'static str {
    match (method.as_str(), named) {
        ("GET", true) => "get",
        ("GET", false) if watch => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "other",
    }
}

/// Path segments, percent-decoded.
fn segments(uri: &Uri) -> Result<Vec<String>, ApiError> {
    uri.path()
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| {
            query::percent_decode(s)
                .ok_or_else(|| ApiError::bad_request(format!("path segment {s} does not decode")))
        })
        .collect()
}

/// A JSON response.
fn reply(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn text(body: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
