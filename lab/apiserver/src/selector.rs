//! Label and field selectors.

use serde_json::Value;

use crate::error::ApiError;
use crate::object;
use crate::registry::Resource;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Labels and fields that an object must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// JSON pointer, value, whether it must be equal.
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses the two query parameters.
    ///
    /// # Errors
    /// 400 where one does not parse or the kind cannot be selected by that field.
    pub fn parse(res: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(res, fields)?,
        })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|r| match r {
            Requirement::In(key, values) => {
                label(key).is_some_and(|v| values.iter().any(|w| w == v))
            }
            Requirement::NotIn(key, values) => {
                !label(key).is_some_and(|v| values.iter().any(|w| w == v))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(pointer, value, equal)| {
            let found = match object.pointer(pointer) {
                Some(Value::Bool(b)) => b.to_string(),
                Some(Value::Number(n)) => n.to_string(),
                _ => object::text(object, pointer).to_owned(),
            };
            (found == *value) == *equal
        })
    }
}

/// Splits at commas that are not inside parentheses.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|t| !t.is_empty())
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    terms(text).map(parse_label).collect()
}

fn parse_label(term: &str) -> Result<Requirement, ApiError> {
    let bad = || ApiError::bad_request(format!("unable to parse requirement: {term}"));
    let key = |k: &str| -> Result<String, ApiError> {
        let k = k.trim();
        let fine = !k.is_empty()
            && k.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if fine { Ok(k.to_owned()) } else { Err(bad()) }
    };
    if let Some(rest) = term.strip_prefix('!') {
        return Ok(Requirement::Absent(key(rest)?));
    }
    if let Some((head, list)) = term.split_once('(') {
        let values: Vec<String> = list
            .strip_suffix(')')
            .ok_or_else(bad)?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        return match head.split_whitespace().collect::<Vec<_>>().as_slice() {
            [k, "in"] => Ok(Requirement::In(key(k)?, values)),
            [k, "notin"] => Ok(Requirement::NotIn(key(k)?, values)),
            _ => Err(bad()),
        };
    }
    if let Some((k, v)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(key(k)?, vec![v.trim().to_owned()]));
    }
    if let Some((k, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(key(k)?, vec![v.trim().to_owned()]));
    }
    Ok(Requirement::Exists(key(term)?))
}

fn parse_fields(res: &Resource, text: &str) -> Result<Vec<(String, String, bool)>, ApiError> {
    terms(text)
        .map(|term| {
            let (field, value, equal) = if let Some((f, v)) = term.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (f, v, true)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: {term}; can't understand"
                )));
            };
            let field = field.trim();
            if !res.selectable(field) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {field}"
                )));
            }
            let pointer = format!("/{}", field.replace('.', "/"));
            Ok((pointer, value.trim().replace('\\', ""), equal))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn pods() -> std::sync::Arc<Resource> {
        Registry::builtin().find("", "v1", "pods").unwrap()
    }

    #[test]
    fn label_selectors() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "empty": ""}}});
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=db", true),
            ("absent!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("absent notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!absent", true),
            ("empty=", true),
            ("app in (db,web),tier in (front,back),!x", true),
        ] {
            let selector = Selector::parse(&pods(), text, "").unwrap();
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
        for text in ["a b", "app in (a", "app into (a)", "=x"] {
            assert_eq!(
                Selector::parse(&pods(), text, "").unwrap_err().code,
                400,
                "{text}"
            );
        }
    }

    /// The label selector, a line, and the field selector.
    #[test]
    fn fuzz() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "web"}}});
        let words = &[
            "in (",
            "notin (",
            "!=",
            "metadata.name",
            "spec.nodeName",
            "!",
        ];
        tombolo_fuzz::Target::new("lab-selector")
            .words(words)
            .check(|bytes| {
                let text = String::from_utf8_lossy(bytes);
                let (labels, fields) = text.split_once('\n').unwrap_or((&text, ""));
                match Selector::parse(&pods(), labels, fields) {
                    Ok(selector) => drop(selector.matches(&object)),
                    Err(error) => assert_eq!(error.code, 400),
                }
            });
    }

    #[test]
    fn field_selectors() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (text, expected) in [
            ("metadata.name=a", true),
            (
                "spec.nodeName=n1,status.phase!=Failed,status.phase!=Succeeded",
                true,
            ),
            ("spec.nodeName=", false),
            ("status.phase==Running", true),
        ] {
            let selector = Selector::parse(&pods(), "", text).unwrap();
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
        for text in ["spec.foo=1", "metadata.name"] {
            assert_eq!(
                Selector::parse(&pods(), "", text).unwrap_err().code,
                400,
                "{text}"
            );
        }
    }
}
