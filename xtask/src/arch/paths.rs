//! The paths that a source file names, taken from its tokens: comments and strings do not count, groups of `use` are
//! spelled out, `crate`, `self` and `super` are resolved, what is under `#[cfg(test)]` is left out.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// A path that a file names, or a macro that it calls (with `!` at its end), or a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Segments; `core` and `alloc` are written `std`.
    pub path: Vec<String>,
    /// Line, from 1.
    pub line: usize,
}

impl Named {
    /// With `::` between segments.
    pub fn text(&self) -> String {
        self.path.join("::")
    }
}

/// The names in `source`, the text of the module with this path (`["crate", "ipam", "pool"]`).
pub fn names(source: &str, module: &[String]) -> Result<Vec<Named>> {
    let tokens: TokenStream = source
        .parse()
        .map_err(|error| anyhow!("not Rust: {error}"))?;
    let mut reader = Reader {
        module: module.to_vec(),
        names: Vec::new(),
    };
    reader.tokens(tokens);
    Ok(reader.names)
}

struct Reader {
    module: Vec<String>,
    names: Vec<Named>,
}

impl Reader {
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(mark)
                    if mark.as_char() == '#' && is_test_only(tokens.get(at + 1)) =>
                {
                    after_item(&tokens, at + 2)
                }
                TokenTree::Ident(word) if *word == "mod" => self.inline_module(&tokens, at),
                TokenTree::Ident(_) => self.path(&tokens, at, &[]),
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    at + 1
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    /// `mod name { … }`: its content is one level deeper.
    fn inline_module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
            (tokens.get(at + 1), tokens.get(at + 2))
        {
            self.module.push(name.to_string());
            self.tokens(body.stream());
            self.module.pop();
            return at + 3;
        }
        at + 1
    }

    /// A path that begins at `at`, below `prefix`. Returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], at: usize, prefix: &[String]) -> usize {
        let mut path = prefix.to_vec();
        let line = line(tokens[at].span());
        let mut next = at;
        loop {
            match tokens.get(next) {
                Some(TokenTree::Ident(word)) => path.push(word.to_string()),
                // `use std::{…}`
                Some(TokenTree::Group(group))
                    if group.delimiter() == Delimiter::Brace && next > at =>
                {
                    self.use_group(group, &path);
                    return next + 1;
                }
                // `use std::time::*`: the module itself.
                _ => break,
            }
            next += 1;
            if is_separator(tokens, next) {
                next += 2;
                // `collect::<…>`: what is between is read on its own.
                if matches!(tokens.get(next), Some(TokenTree::Punct(mark)) if mark.as_char() == '<')
                {
                    break;
                }
            } else {
                break;
            }
        }
        let is_macro = matches!(tokens.get(next), Some(TokenTree::Punct(mark)) if mark.as_char() == '!')
            && matches!(tokens.get(next + 1), Some(TokenTree::Group(_)));
        if let Some(last) = path.last_mut().filter(|_| is_macro) {
            last.push('!');
        }
        self.names.push(Named {
            path: self.resolve(path),
            line,
        });
        next.max(at + 1)
    }

    fn use_group(&mut self, group: &Group, prefix: &[String]) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Ident(word) if *word == "self" => {
                    self.names.push(Named {
                        path: self.resolve(prefix.to_vec()),
                        line: line(word.span()),
                    });
                    at + 1
                }
                // An alias names nothing.
                TokenTree::Ident(word) if *word == "as" => at + 2,
                TokenTree::Ident(_) => self.path(&tokens, at, prefix),
                TokenTree::Punct(mark) if mark.as_char() == '*' => {
                    self.names.push(Named {
                        path: self.resolve(prefix.to_vec()),
                        line: line(mark.span()),
                    });
                    at + 1
                }
                TokenTree::Group(inner) => {
                    self.use_group(inner, prefix);
                    at + 1
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    fn resolve(&self, path: Vec<String>) -> Vec<String> {
        let mut rest = path.as_slice();
        let mut base = match rest.first().map(String::as_str) {
            Some("self" | "super") if rest.len() > 1 => self.module.clone(),
            Some("core" | "alloc") if rest.len() > 1 => {
                rest = &rest[1..];
                vec!["std".to_owned()]
            }
            _ => Vec::new(),
        };
        while rest.len() > 1 && (rest[0] == "super" || rest[0] == "self") && !base.is_empty() {
            if rest[0] == "super" {
                base.pop();
            }
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        base
    }
}

fn line(span: Span) -> usize {
    span.start().line
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

/// `[cfg(test)]`
fn is_test_only(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group))
        if group.stream().to_string().split_whitespace().collect::<String>() == "cfg(test)")
}

/// Behind the item that begins at `at`: its semicolon, or its body.
fn after_item(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(mark) => mark.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    tokens
        .iter()
        .skip(at)
        .position(ends)
        .map_or(tokens.len(), |found| at + found + 1)
}
