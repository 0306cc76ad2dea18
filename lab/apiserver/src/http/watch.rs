//! Watch: a stream of events, one JSON object a line.
//!
//! ```text
//!   start ─▶ initial events (no version given, or asked for) ─▶ changes ─▶ end
//!                                └─ bookmark, if asked for        └─ timeout, the server's cut, or 410 as an ERROR event
//! ```
//! It reads the collection's history from its cursor and holds nothing else, so dropping the stream is all there is to end it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use super::negotiate::Accept;
use super::query::Query;
use super::read::{include, selector, shape};
use super::{App, Target};
use crate::api::wire;
use crate::error::{ApiError, Cause};
use crate::object;
use crate::registry::Resource;
use crate::selector::Selector;
use crate::store::Change;
use crate::table::Include;

/// Longest time of a watch whose client sets none, in seconds.
const DEFAULT_TIMEOUT: u64 = 1800;
/// Changes read in one go.
const BATCH: usize = 256;

struct Session {
    app: Arc<App>,
    res: Arc<Resource>,
    namespace: String,
    selector: Selector,
    accept: Accept,
    include: Include,
    bookmarks: bool,
    /// Version up to which the client knows everything.
    cursor: u64,
    ready: VecDeque<Bytes>,
    /// Whether a table event still has to say what its columns are.
    headings: bool,
    changed: Receiver<u64>,
    cut: Receiver<u64>,
    end: Instant,
    next_bookmark: Instant,
    ended: bool,
}

/// Begins a watch.
pub fn start(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let selector = selector(target, query)?;
    let include = include(query)?;
    let version = query.version()?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let streaming = streaming_list(&target.res, query, bookmarks)?;
    let timeout = query.number("timeoutSeconds")?.filter(|t| *t > 0);
    let now = Instant::now();
    let mut session = Session {
        res: target.res.clone(),
        namespace: target.namespace.clone(),
        selector,
        accept,
        include,
        bookmarks,
        cursor: version.unwrap_or(0),
        ready: VecDeque::new(),
        headings: true,
        changed: app.api.store.signal(&target.res.collection),
        cut: app.cut.subscribe(),
        end: now + Duration::from_secs(timeout.unwrap_or(DEFAULT_TIMEOUT)),
        next_bookmark: now + app.bookmark_every,
        ended: false,
        app: app.clone(),
    };
    if version.is_none() || streaming {
        session.initial(streaming);
    }
    let body = stream::unfold(session, |mut session| async move {
        let line = session.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), session))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// Whether the watch begins with a list, as `sendInitialEvents` asks.
fn streaming_list(res: &Resource, query: &Query, bookmarks: bool) -> Result<bool, ApiError> {
    let asked = query.flag("sendInitialEvents");
    let matched = query.text("resourceVersionMatch");
    let cause = match (asked, query.text("sendInitialEvents").is_empty(), matched) {
        (_, true, "") => None,
        (_, true, _) => {
            Some("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        }
        (_, false, "NotOlderThan") if bookmarks || !asked => None,
        (_, false, "NotOlderThan") => Some("sendInitialEvents requires allowWatchBookmarks"),
        (_, false, _) => {
            Some("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
    };
    match cause {
        None => Ok(asked),
        Some(why) => {
            let cause = Cause::forbidden("resourceVersionMatch", why);
            Err(ApiError::invalid(res, "", &[cause]))
        }
    }
}

impl Session {
    /// The state of now as ADDED events.
    fn initial(&mut self, mark_end: bool) {
        let (version, objects) = self.app.api.store.tx(|s| {
            let objects = s.list(&self.res.collection, &self.namespace);
            (s.version(), objects)
        });
        for object in objects {
            if self.selector.matches(&object) {
                self.event("ADDED", &object);
            }
        }
        self.cursor = version;
        if mark_end {
            self.bookmark(true);
        }
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            if self.cut.has_changed().unwrap_or(true) {
                return None;
            }
            self.changed.mark_unchanged();
            self.read();
            self.tick();
            if self.ready.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    /// What is due by the clock, however busy the collection is: bookmarks and the end.
    fn tick(&mut self) {
        let now = Instant::now();
        let end = now >= self.end;
        if (end || now >= self.next_bookmark) && self.bookmarks && !self.ended {
            self.bookmark(false);
            self.next_bookmark = now + self.app.bookmark_every;
        }
        self.ended |= end;
    }

    /// Turns what happened since the cursor into events.
    fn read(&mut self) {
        loop {
            let read = self
                .app
                .api
                .store
                .tx(|s| s.changes(&self.res.collection, self.cursor, BATCH));
            match read {
                Ok((changes, reached)) => {
                    let full = changes.len() == BATCH;
                    for change in &changes {
                        self.change(change);
                    }
                    self.cursor = reached;
                    // A full batch that selected nothing: there is more to read.
                    if !(full && self.ready.is_empty()) {
                        return;
                    }
                }
                Err(expired) => {
                    let status = ApiError::expired(expired.to_string()).status();
                    self.line(&json!({"type": "ERROR", "object": status}));
                    self.ended = true;
                    return;
                }
            }
        }
    }

    async fn wait(&mut self) {
        let wake = if self.bookmarks {
            self.end.min(self.next_bookmark)
        } else {
            self.end
        };
        tokio::select! {
            changed = self.changed.changed() => self.ended = changed.is_err(),
            // The caller looks at the reason.
            _ = self.cut.changed() => self.cut.mark_changed(),
            () = sleep_until(wake) => {}
        }
    }

    /// An object that begins or ceases to be selected is added or deleted for this client.
    fn change(&mut self, change: &Change) {
        if !self.namespace.is_empty() && object::namespace(&change.after) != self.namespace {
            return;
        }
        let before = change
            .before
            .as_ref()
            .filter(|o| self.selector.matches(o))
            .cloned();
        let selected = !change.deleted && self.selector.matches(&change.after);
        match (before, selected) {
            (None, false) => {}
            (None, true) => self.event("ADDED", &change.after),
            (Some(_), true) => self.event("MODIFIED", &change.after),
            (Some(_), false) if change.deleted => self.event("DELETED", &change.after),
            (Some(before), false) => {
                let mut last = (*before).clone();
                object::meta_mut(&mut last).insert(
                    "resourceVersion".to_owned(),
                    json!(change.version.to_string()),
                );
                self.event("DELETED", &last);
            }
        }
    }

    fn event(&mut self, kind: &str, object: &Value) {
        let line = if self.accept == Accept::Plain {
            json!({"type": kind, "object": wire(&self.res, object)})
        } else {
            let shaped = shape(&self.res, object, self.accept, self.include, self.headings);
            self.headings = false;
            json!({"type": kind, "object": shaped})
        };
        self.line(&line);
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut object = match self.accept {
            Accept::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": [], "rows": [],
            }),
            Accept::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"})
            }
            Accept::Plain => json!({"kind": self.res.kind, "apiVersion": self.res.api_version()}),
        };
        object["metadata"] =
            json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.line(&json!({"type": "BOOKMARK", "object": object}));
    }

    fn line(&mut self, value: &Value) {
        self.ready.push_back(Bytes::from(format!("{value}\n")));
    }
}
