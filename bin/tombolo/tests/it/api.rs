//! An API server that lists and gets what it was given, on a loopback port.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Objects by plural.
type Objects = Vec<(&'static str, Vec<Value>)>;

pub struct Api {
    folder: TempDir,
}

impl Api {
    /// Serves until the test program ends.
    pub fn start(objects: Objects) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", listener.local_addr().unwrap()) } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &objects);
            }
        });
        Self { folder }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }
}

/// Answers the requests of one connection, one after the other.
fn serve(mut stream: TcpStream, objects: &Objects) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(request)) = lines.next() {
        let path = request.split_whitespace().nth(1).unwrap().to_owned();
        while lines
            .next()
            .is_some_and(|header| header.is_ok_and(|header| !header.is_empty()))
        {}
        let (status, body) = answer(&path, objects);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
    }
}

fn answer(path: &str, objects: &Objects) -> (&'static str, Value) {
    let path = path.split('?').next().unwrap();
    let mut parts = path
        .trim_start_matches("/apis/tombolo.dev/v1alpha1/")
        .split('/');
    let (plural, name) = (parts.next().unwrap(), parts.next());
    let missing = || {
        let message = format!("{path} is not here");
        (
            "404 Not Found",
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "NotFound", "code": 404 }),
        )
    };
    let Some((_, items)) = objects.iter().find(|(each, _)| *each == plural) else {
        return missing();
    };
    match name {
        None => (
            "200 OK",
            json!({ "kind": "List", "apiVersion": "tombolo.dev/v1alpha1", "metadata": {}, "items": items }),
        ),
        Some(name) => match items.iter().find(|item| item["metadata"]["name"] == name) {
            Some(item) => ("200 OK", item.clone()),
            None => missing(),
        },
    }
}
