//! The flags of a command, read from the tokens of the struct that declares them to clap.

use anyhow::{Context, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// One flag that people may use.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub long: String,
    /// Environment variable.
    pub variable: Option<String>,
    pub default: Option<String>,
    pub about: String,
}

/// The flags of `struct <name>`, in the order of the source; those that are hidden are left out.
pub fn of(source: &str, name: &str) -> anyhow::Result<Vec<Flag>> {
    let tokens: TokenStream = source
        .parse()
        .map_err(|error| anyhow!("not Rust: {error}"))?;
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(found)) if *found == word);
    let body = (0..tokens.len()).find_map(|at| match tokens.get(at + 2) {
        Some(TokenTree::Group(body)) if is(at, "struct") && is(at + 1, name) => Some(body.clone()),
        _ => None,
    });
    let body = body.context("no such struct")?;
    let mut flags = Vec::new();
    for field in split(body.stream()) {
        flags.extend(flag(&field)?);
    }
    Ok(flags)
}

/// What stands between commas.
fn split(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut parts = vec![Vec::new()];
    let mut depth = 0_u32;
    for token in tokens {
        match &token {
            // Of a type's parameters.
            TokenTree::Punct(mark) if mark.as_char() == '<' => depth += 1,
            TokenTree::Punct(mark) if mark.as_char() == '>' => depth = depth.saturating_sub(1),
            TokenTree::Punct(mark) if mark.as_char() == ',' && depth == 0 => {
                parts.push(Vec::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(token);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn flag(field: &[TokenTree]) -> anyhow::Result<Option<Flag>> {
    let colon = field
        .iter()
        .position(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':'));
    let name = colon.and_then(|at| field.get(at.checked_sub(1)?));
    let name = name.context("a field has no name")?.to_string();
    let (mut about, mut settings) = (Vec::new(), None);
    for attribute in field.iter().filter_map(bracketed) {
        let inside: Vec<TokenTree> = attribute.stream().into_iter().collect();
        match inside.as_slice() {
            [TokenTree::Ident(word), _, TokenTree::Literal(text)] if *word == "doc" => {
                about.push(unquoted(&text.to_string()));
            }
            [TokenTree::Ident(word), TokenTree::Group(group)] if *word == "arg" => {
                settings = Some(group.stream());
            }
            _ => {}
        }
    }
    let Some(settings) = settings else {
        return Ok(None);
    };
    let mut flag = Flag {
        long: name.replace('_', "-"),
        variable: None,
        default: None,
        about: about.join(" "),
    };
    let mut is_long = false;
    for setting in split(settings) {
        let word = setting.first().map(ToString::to_string).unwrap_or_default();
        let value: Vec<String> = setting.iter().skip(2).map(ToString::to_string).collect();
        match word.as_str() {
            "hide" => return Ok(None),
            "long" => {
                is_long = true;
                if let Some(name) = value.first() {
                    flag.long = unquoted(name);
                }
            }
            "env" => flag.variable = value.first().map(|name| unquoted(name)),
            "default_value" => flag.default = value.first().map(|text| unquoted(text)),
            // A number, or the last word of a path.
            "default_value_t" => {
                flag.default = value
                    .last()
                    .map(|text| text.to_lowercase().replace('_', ""));
            }
            _ => {}
        }
    }
    Ok(is_long.then_some(flag))
}

fn bracketed(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => Some(group),
        _ => None,
    }
}

/// The text of a string's literal.
fn unquoted(literal: &str) -> String {
    let literal = literal.strip_prefix('r').unwrap_or(literal);
    let inside = literal.trim_start_matches('"').trim_end_matches('"');
    inside.replace("\\\"", "\"").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_as_clap_reads_them() {
        let source = r#"
            struct Other { #[arg(long)] no: u8 }
            /// What it takes.
            #[derive(Args)]
            pub struct Wanted {
                /// First "line",
                /// second line.
                #[arg(long, env = "A_B", default_value_t = 60_000)]
                pub a_b: BTreeMap<u8, u64>,
                #[arg(short, long = "other", value_enum, default_value_t = Kind::Text)]
                named: Kind,
                #[arg(long, default_value = "/x")]
                path: PathBuf,
                #[arg(long, hide = true)]
                hidden: bool,
                #[arg(trailing_var_arg = true)]
                rest: Vec<String>,
                #[command(flatten)]
                more: More,
            }
        "#;
        let flag = |long: &str, variable: Option<&str>, default: &str, about: &str| Flag {
            long: long.to_owned(),
            variable: variable.map(str::to_owned),
            default: Some(default.to_owned()),
            about: about.to_owned(),
        };
        assert_eq!(
            of(source, "Wanted").unwrap(),
            [
                flag("a-b", Some("A_B"), "60000", "First \"line\", second line."),
                flag("other", None, "text", ""),
                flag("path", None, "/x", ""),
            ]
        );
        assert!(of(source, "Missing").is_err());
    }
}
