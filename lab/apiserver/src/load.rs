//! Manifests applied at start.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::{FieldValidation, Target};
use crate::api::{Api, WriteOptions};
use crate::object::{self, text};

/// Applies a manifest, or every `.yaml`, `.yml` and `.json` file in a directory by name. Definitions come first, so that
/// their objects may lie in any file. What exists is replaced.
pub fn load(api: &Api, path: &Path) -> anyhow::Result<usize> {
    let mut objects = Vec::new();
    for file in files(path)? {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("read manifest {}", file.display()))?;
        for document in serde_norway::Deserializer::from_str(&text) {
            let object = Value::deserialize(document)
                .with_context(|| format!("parse manifest {}", file.display()))?;
            match object {
                Value::Null => {}
                list if text_of(&list, "/kind") == "List" => {
                    objects.extend(
                        object::list(&list, "/items")
                            .iter()
                            .cloned()
                            .map(|o| (file.clone(), o)),
                    );
                }
                object => objects.push((file.clone(), object)),
            }
        }
    }
    objects.sort_by_key(|(_, o)| match text_of(o, "/kind") {
        "CustomResourceDefinition" => 0,
        "Namespace" => 1,
        _ => 2,
    });
    let count = objects.len();
    for (file, object) in objects {
        let shown = format!("{} {}", text(&object, "/kind"), object::name(&object));
        apply(api, object).with_context(|| format!("{}: {shown}", file.display()))?;
    }
    Ok(count)
}

fn text_of<'a>(object: &'a Value, pointer: &str) -> &'a str {
    text(object, pointer)
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in
        std::fs::read_dir(path).with_context(|| format!("read directory {}", path.display()))?
    {
        let file = entry
            .with_context(|| format!("read directory {}", path.display()))?
            .path();
        let known = file
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // Says which of the others belong together.
        let lists = file
            .file_name()
            .is_some_and(|name| name == "kustomization.yaml");
        if known && !lists && file.is_file() {
            all.push(file);
        }
    }
    all.sort();
    Ok(all)
}

fn apply(api: &Api, mut object: Value) -> anyhow::Result<()> {
    let (version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
    let res = api
        .registry()
        .of_object(version, kind)
        .ok_or_else(|| anyhow!("no kind {kind} in {version} is served"))?;
    let name = object::name(&object).to_owned();
    if name.is_empty() {
        bail!("it has no name");
    }
    let namespace = match object::namespace(&object) {
        "" if res.namespaced => "default",
        namespace => namespace,
    }
    .to_owned();
    // A manifest of ours with an unknown field is a mistake.
    let options = WriteOptions {
        fields: FieldValidation::Strict,
        ..WriteOptions::default()
    };
    match api.get(&res, &namespace, &name) {
        Ok(current) => {
            let version = json!(object::version(&current));
            object::meta_mut(&mut object).insert("resourceVersion".to_owned(), version);
            api.replace(&res, (&namespace, &name), Target::Object, object, options)?;
        }
        Err(_) => {
            api.create(&res, &namespace, object, options)?;
        }
    }
    Ok(())
}
