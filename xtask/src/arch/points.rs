//! That every write of agent, plugin and operator (journal, kernel, cloud, object) goes through a failpoint, so that the
//! tests that kill the shipped programs at every failpoint kill them at every write.
//!
//! A write is known by its name and by what it is called on ([`WRITES`]). It goes through a point where it stands inside
//! `….around(…)` or `….during(…)`, or where the variable that holds it is handed to one of them in the same function. What
//! only wraps a write for callers that are looked at in turn is in [`WRAPPERS`], and is a write itself. A handle of an API
//! object must be called `api`, `nrs` or `enis`, a kernel's socket `route`, `netfilter` or `socket`; whatever else is called
//! with one of these words is in [`OTHERS`].

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::sources::Source;
use super::{Ban, Breach};

/// Calls that write: `<receiver>.<method>`, `<module>::<function>`, a method of anything (`.method`) or a function alone.
const WRITES: &[&str] = &[
    // Kernel.
    ".request",
    ".batch",
    ".batch_each",
    ".transaction",
    "kernel.apply",
    "link::create_veth",
    "nft::install",
    "nft::update",
    "nft::remove",
    "nft::add_pod",
    "nft::del_pod",
    "conntrack::delete_addresses",
    "conntrack::delete_stale_udp",
    "forget_stale_udp",
    "wire::forget_stale_udp",
    "sockets::close_to",
    "sysctl::write",
    "write_unless_no_ipv6",
    "prepare_ipv6",
    // Files.
    "fs::write",
    "fs::rename",
    "fs::copy",
    "fs::hard_link",
    "fs::create_dir",
    "fs::create_dir_all",
    "fs::remove_dir",
    "fs::remove_dir_all",
    "fs::remove_file",
    "fs::set_permissions",
    "fs::linkat",
    "give_name",
    "fs::unlinkat",
    "fs::renameat",
    "fs::renameat_with",
    ".write_whole",
    "fs::mkdirat",
    "fs::symlinkat",
    "fs::ftruncate",
    "symlink",
    "File::create",
    "UnixListener::bind",
    ".create",
    ".create_new",
    ".write_all",
    ".set_len",
    ".set_permissions",
    "file::remove",
    "file::move_aside",
    "write_versioned",
    "journal.write",
    "journal.remove",
    "journal.cool",
    "journal.cooled",
    "notes.remove",
    "spec::keep",
    // Cloud and objects.
    "client.call",
    ".patch",
    ".patch_status",
    ".patch_metadata",
    ".delete_collection",
    ".create_subresource",
    ".replace_status",
    "api.replace",
    "api.delete",
    "nrs.replace",
    "nrs.delete",
    "secrets.replace",
    "enis.replace",
    "enis.delete",
    "write_finalizers",
    ".write_finalizers",
];

/// Functions that write without a point because their name is in [`WRITES`]: whoever calls them is looked at.
const WRAPPERS: &[(&str, &str)] = &[
    ("bin/agent/src/journal/file.rs", "write_versioned"),
    ("bin/agent/src/journal/file.rs", "create"),
    ("bin/agent/src/journal/file.rs", "remove"),
    ("bin/agent/src/journal/file.rs", "move_aside"),
    ("bin/agent/src/journal.rs", "write"),
    ("bin/agent/src/journal.rs", "remove"),
    ("bin/agent/src/journal.rs", "cool"),
    ("bin/agent/src/journal.rs", "cooled"),
    ("bin/agent/src/journal/notes.rs", "remove"),
    ("bin/operator/src/api.rs", "write_finalizers"),
    ("edge/netlink/src/wire/stale.rs", "forget_stale_udp"),
    ("edge/netlink/src/wire.rs", "write_unless_no_ipv6"),
    ("edge/netlink/src/wire.rs", "prepare_ipv6"),
    ("edge/cni-dir/src/files.rs", "write_whole"),
];

/// Calls that are named like a write and are none: file, and call as in [`WRITES`].
const OTHERS: &[(&str, &str)] = &[
    // A pod's side, not a file.
    ("bin/agent/src/attach.rs", "pod.create"),
    ("edge/netlink/src/wire.rs", "pod.create"),
    // An option of the opening, which goes through a point.
    ("bin/agent/src/run.rs", ".create"),
    // In `give_name`, which is in the list.
    ("bin/cni/src/note.rs", "fs::linkat"),
    // A worker's own, which makes its writes by `cloud.rs` and `api.rs`.
    ("bin/operator/src/node/execute.rs", "caller.create"),
];

/// The programs, and what wires a pod for them.
const FOLDERS: &[&str] = &[
    "bin/agent/src/",
    "bin/cni/src/",
    "bin/operator/src/",
    "edge/netlink/src/wire",
    "edge/cni-dir/src/",
];

/// Writes of this file that go through no point.
pub fn breaches(file: &Source) -> Result<Vec<Breach>> {
    let looked_at = FOLDERS.iter().any(|folder| file.path.starts_with(folder));
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if !looked_at || ["tests.rs", "fuzz.rs"].contains(&name) {
        return Ok(Vec::new());
    }
    let tokens: TokenStream = file
        .text
        .parse()
        .map_err(|error| anyhow!("{}: not Rust: {error}", file.path))?;
    let mut reader = Reader {
        file,
        handed: BTreeSet::new(),
        breaches: Vec::new(),
    };
    reader.items(tokens);
    Ok(reader.breaches)
}

struct Reader<'a> {
    file: &'a Source,
    /// Variables of the present function that are handed to a point.
    handed: BTreeSet<String>,
    breaches: Vec<Breach>,
}

impl Reader<'_> {
    /// Looks for functions.
    fn items(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_only(&tokens, at) {
                at = behind(&tokens, at + 2);
            } else if let Some(name) = function(&tokens, at) {
                let end = behind(&tokens, at);
                if let Some(TokenTree::Group(body)) = tokens.get(end - 1)
                    && !WRAPPERS.contains(&(self.file.path.as_str(), name.as_str()))
                {
                    self.handed = handed(body.stream());
                    self.body(body.stream());
                }
                at = end;
            } else {
                if let TokenTree::Group(group) = &tokens[at]
                    && group.delimiter() == Delimiter::Brace
                {
                    self.items(group.stream());
                }
                at += 1;
            }
        }
    }

    fn body(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let Some(end) = self.bound_to_a_handed_name(&tokens, at) {
                at = end;
                continue;
            }
            if enters_a_point(&tokens, at) {
                at += 2;
                continue;
            }
            if let Some(call) = call(&tokens, at) {
                self.judge(&call, tokens[at].span().start().line);
            }
            if let TokenTree::Group(group) = &tokens[at] {
                self.body(group.stream());
            }
            at += 1;
        }
    }

    /// `let name = …;` where the name is handed to a point: where it ends.
    fn bound_to_a_handed_name(&self, tokens: &[TokenTree], at: usize) -> Option<usize> {
        if !is_word(tokens.get(at), "let") {
            return None;
        }
        let skipped = usize::from(is_word(tokens.get(at + 1), "mut"));
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1 + skipped) else {
            return None;
        };
        let is_end = |token: &TokenTree| is_mark(Some(token), ';');
        let length = tokens[at..].iter().position(is_end)?;
        self.handed
            .contains(&name.to_string())
            .then_some(at + length)
    }

    fn judge(&mut self, call: &Call, line: usize) {
        let is_it = |known: &&&str| call.is(known);
        let Some(write) = WRITES.iter().find(is_it) else {
            return;
        };
        if OTHERS.contains(&(self.file.path.as_str(), call.text().as_str())) {
            return;
        }
        self.breaches.push(Breach {
            place: format!("{}:{line}", self.file.path),
            ban: Ban::Points,
            found: format!("{} ({write}) goes through no failpoint", call.text()),
        });
    }
}

/// Something that is called: a method, and on what; or a function, and of what.
struct Call {
    before: String,
    separator: &'static str,
    name: String,
}

impl Call {
    fn text(&self) -> String {
        format!("{}{}{}", self.before, self.separator, self.name)
    }

    fn is(&self, known: &str) -> bool {
        let any = format!("{}{}", self.separator, self.name);
        known == self.text() || (self.separator != "::" && known == any)
    }
}

/// The call whose name stands at `at`; also a name that is handed on (`try_for_each(sysctl::write)`).
fn call(tokens: &[TokenTree], at: usize) -> Option<Call> {
    let TokenTree::Ident(name) = &tokens[at] else {
        return None;
    };
    let name = name.to_string();
    let word = |back: usize| match at.checked_sub(back).map(|at| &tokens[at]) {
        Some(TokenTree::Ident(word)) => word.to_string(),
        _ => String::new(),
    };
    let mark = |back: usize, wanted| {
        at.checked_sub(back)
            .is_some_and(|at| is_mark(tokens.get(at), wanted))
    };
    let is_called = matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
    let (before, separator) = if mark(1, '.') {
        (word(2), ".")
    } else if mark(1, ':') && mark(2, ':') {
        (word(3), "::")
    } else {
        (String::new(), "")
    };
    // A field, or the definition of a name, is none.
    (is_called || separator == "::").then_some(Call {
        before,
        separator,
        name,
    })
}

/// `.around(…)`, `.during(…)`.
fn enters_a_point(tokens: &[TokenTree], at: usize) -> bool {
    let is_point = is_word(tokens.get(at), "around") || is_word(tokens.get(at), "during");
    is_point && matches!(tokens.get(at + 1), Some(TokenTree::Group(_)))
}

/// Names that are handed to a point: its argument is a name alone, or a closure that only calls it.
fn handed(tokens: TokenStream) -> BTreeSet<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut names = BTreeSet::new();
    for at in 0..tokens.len() {
        if let TokenTree::Group(group) = &tokens[at] {
            names.extend(handed(group.stream()));
            let follows_a_point = at > 0 && enters_a_point(&tokens, at - 1);
            names.extend(alone(group).filter(|_| follows_a_point));
        }
    }
    names
}

fn alone(group: &Group) -> Option<String> {
    let words: Vec<String> = group.stream().into_iter().map(|t| t.to_string()).collect();
    match words.as_slice() {
        [name] => Some(name.clone()),
        _ => None,
    }
}

/// `fn name`
fn function(tokens: &[TokenTree], at: usize) -> Option<String> {
    match (is_word(tokens.get(at), "fn"), tokens.get(at + 1)) {
        (true, Some(TokenTree::Ident(name))) => Some(name.to_string()),
        _ => None,
    }
}

/// `#[cfg(test)]`
fn is_test_only(tokens: &[TokenTree], at: usize) -> bool {
    let Some(TokenTree::Group(group)) = tokens.get(at + 1) else {
        return false;
    };
    let text = group.stream().to_string();
    is_mark(tokens.get(at), '#') && text.split_whitespace().collect::<String>() == "cfg(test)"
}

/// Behind the item that begins at `at`: its semicolon, or its body.
fn behind(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        other => is_mark(Some(other), ';'),
    };
    let rest = tokens.iter().skip(at);
    rest.clone()
        .position(ends)
        .map_or(tokens.len(), |found| at + found + 1)
}

fn is_word(token: Option<&TokenTree>, wanted: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(word)) if *word == wanted)
}

fn is_mark(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == wanted)
}
