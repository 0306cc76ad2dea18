//! The part of JSONPath that printer columns use: `.a.b`, `['a']`, `.a\.b`, `[0]`, `[-1]`, `[*]`, `.*` and
//! `[?(@.type=='Ready')]`.

use serde_json::Value;

/// Most bytes of a path; filters in filters are read by recursion.
const MAX_LEN: usize = 4096;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    /// Elements whose value at the path equals (or does not equal) a value.
    Where(JsonPath, bool, Value),
}

/// Why a path does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing there.
    #[error("the path is empty")]
    Empty,
    /// Too much there.
    #[error("the path has more than {MAX_LEN} bytes")]
    TooLong,
    /// It must begin with a dot or a bracket.
    #[error("expected '.' or '[' at '{0}'")]
    Start(String),
    /// A bracket is not closed.
    #[error("unclosed bracket at '{0}'")]
    Unclosed(String),
    /// Neither index, name, `*` nor a simple filter.
    #[error("not understood: '[{0}]'")]
    Bracket(String),
}

impl JsonPath {
    /// Parses a path, with or without surrounding braces.
    ///
    /// # Errors
    /// Where it is not of the supported form.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(PathError::TooLong);
        }
        let mut steps = Vec::new();
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        while !rest.is_empty() {
            rest = if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or_else(|| PathError::Unclosed(rest.to_owned()))?;
                steps.push(bracket(&after[..end])?);
                &after[end + 1..]
            } else if let Some(after) = rest.strip_prefix('.') {
                let (name, tail) = field(after);
                match name.as_str() {
                    "" if tail.is_empty() => {}
                    "" => return Err(PathError::Start(rest.to_owned())),
                    "*" => steps.push(Step::Every),
                    _ => steps.push(Step::Field(name)),
                }
                tail
            } else {
                return Err(PathError::Start(rest.to_owned()));
            };
        }
        Ok(Self(steps))
    }

    /// All values at the path.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found.into_iter().flat_map(|v| step.apply(v)).collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(i) => {
                let Some(array) = value.as_array() else {
                    return Vec::new();
                };
                let length = i64::try_from(array.len()).unwrap_or(i64::MAX);
                let at = if *i < 0 { length + i } else { *i };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| array.get(at))
                    .into_iter()
                    .collect()
            }
            Self::Every => children(value),
            Self::Where(path, equal, wanted) => children(value)
                .into_iter()
                .filter(|child| path.find(child).contains(&wanted) == *equal)
                .collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// Offset of the bracket that closes the one just opened, outside quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (1, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// A name up to the next dot or bracket; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[i..]),
            c => name.push(c),
        }
    }
    (name, "")
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| {
        text.strip_prefix(q)
            .and_then(|t| t.strip_suffix(q))
            .filter(|_| text.len() > 1)
    })
}

fn bracket(text: &str) -> Result<Step, PathError> {
    let bad = || PathError::Bracket(text.to_owned());
    let text = text.trim();
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some(name) = unquote(text) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Ok(index) = text.parse() {
        return Ok(Step::Index(index));
    }
    let filter = text
        .strip_prefix("?(")
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(bad)?;
    let (left, right, equal) = match (filter.split_once("=="), filter.split_once("!=")) {
        (Some((l, r)), _) => (l, r, true),
        (None, Some((l, r))) => (l, r, false),
        (None, None) => return Err(bad()),
    };
    let path = JsonPath::parse(left.trim().strip_prefix('@').ok_or_else(bad)?)?;
    let right = right.trim();
    let value = match unquote(right) {
        Some(word) => Value::from(word),
        None => serde_json::from_str(right).map_err(|_| bad())?,
    };
    Ok(Step::Where(path, equal, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({
            "metadata": {"labels": {"kubernetes.io/role": "x"}},
            "spec": {"nics": [{"id": "a", "n": 1}, {"id": "b", "n": 2}]},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        for (path, expected) in [
            (".spec.nics[0].id", json!(["a"])),
            ("{.spec.nics[-1].id}", json!(["b"])),
            ("$.spec.nics[*].id", json!(["a", "b"])),
            (".spec.nics[9].id", json!([])),
            (
                ".status.conditions[?(@.type=='Ready')].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type == \"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type!='Ready')].status",
                json!(["False"]),
            ),
            (".spec.nics[?(@.n==2)].id", json!(["b"])),
            (".metadata.labels.kubernetes\\.io/role", json!(["x"])),
            (".metadata.labels['kubernetes.io/role']", json!(["x"])),
            (".nothing.there", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&object)), expected, "{path}");
        }
    }

    #[test]
    fn fuzz() {
        let object = json!({"a": [{"b": 1, "c": "x"}, {"b": 2}], "d": {"e": null}});
        let words = &["?(@.b==1)", "[*]", "[-1]", ".*", "['a']", "@", "==", "!="];
        tombolo_fuzz::Target::new("lab-jsonpath")
            .words(words)
            .check(|bytes| {
                if let Ok(path) = JsonPath::parse(&String::from_utf8_lossy(bytes)) {
                    drop(path.find(&object));
                }
            });
    }

    #[test]
    fn a_path_has_a_limit_on_its_size() {
        let deep = format!("{}.x==1{}", "[?(@".repeat(1000), ")]".repeat(1000));
        assert_eq!(JsonPath::parse(&deep), Err(PathError::TooLong));
        // As deep as the limit allows.
        drop(JsonPath::parse(&deep[..MAX_LEN]));
        let long = format!(".{}", "a".repeat(MAX_LEN - 1));
        assert!(JsonPath::parse(&long).is_ok());
        assert_eq!(
            JsonPath::parse(&format!("{long}a")),
            Err(PathError::TooLong)
        );
    }

    #[test]
    fn broken_paths() {
        for path in ["", "spec", ".a[", ".a[?(@.x)]", ".a[foo]", "..a", ".a[']"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
