//! Mutations of text that keep most of it a text of its language: words, numbers, brackets.

use std::ops::Range;

use fastrand::Rng;

/// Numbers that readers of numbers stumble over.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "+1",
    "00",
    "0.5",
    "1e9",
    "1e400",
    "-1e-400",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
];

/// Texts that readers of JSON, addresses and names stumble over.
const TEXTS: &[&str] = &[
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\u{202e}",
    "\u{e9}",
    "%d",
    "..",
    "../..",
    "/",
    ":",
    "::",
    "::/0",
    "0.0.0.0/0",
    "255.255.255.255",
    "10.0.0.1/33",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "ff:ff:ff:ff:ff:ff",
    " ",
    "\n",
    "=",
    ",",
    ";",
];

/// Changes one thing.
pub fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    let tokens = tokens(input);
    let Some(chosen) = rng.choice(&tokens).cloned() else {
        let word = word(rng, words);
        input.extend_from_slice(word.as_bytes());
        return;
    };
    match rng.u8(..12) {
        0 | 1 => {
            let word = word(rng, words);
            // A string for a string, most of the time.
            let quoted = input[chosen.start] == b'"' && !word.contains('"') && rng.u8(..4) != 0;
            if quoted {
                put(input, chosen, format!("\"{word}\"").as_bytes());
            } else {
                put(input, chosen, word.as_bytes());
            }
        }
        2 => put(
            input,
            chosen.start..chosen.start,
            word(rng, words).as_bytes(),
        ),
        3 => {
            // A number, if there is one behind the place that was chosen.
            let number = tokens
                .iter()
                .find(|token| token.start >= chosen.start && input[token.start].is_ascii_digit());
            if let Some(number) = number {
                let by = NUMBERS[rng.usize(..NUMBERS.len())];
                put(input, number.clone(), by.as_bytes());
            }
        }
        4 => put(input, chosen, b""),
        5 => {
            let copy = input[chosen.clone()].to_vec();
            put(input, chosen.end..chosen.end, &copy);
        }
        6 => {
            let from = rng.choice(&tokens).map_or(0..0, Clone::clone);
            let copy = input[from].to_vec();
            put(input, chosen, &copy);
        }
        7 => {
            let theirs = self::tokens(other);
            if let Some(from) = rng.choice(&theirs) {
                put(input, chosen, &other[from.clone()]);
            }
        }
        // A whole value out, twice, or from elsewhere.
        8 => put(input, value(input, &tokens, &chosen), b""),
        9 => {
            let value = value(input, &tokens, &chosen);
            let mut copy = input[value.clone()].to_vec();
            copy.insert(0, b',');
            let times = 1_usize << rng.u32(..6);
            put(input, value.end..value.end, &copy.repeat(times));
        }
        10 => {
            let theirs = self::tokens(other);
            if let Some(from) = rng.choice(&theirs) {
                let value = value(input, &tokens, &chosen);
                let from = self::value(other, &theirs, from);
                put(input, value, &other[from]);
            }
        }
        _ => {
            let (open, close) = *rng
                .choice(&[("[", "]"), ("{\"a\":", "}"), ("(", ")")])
                .unwrap_or(&("[", "]"));
            let times = 1_usize << rng.u32(..9);
            let value = value(input, &tokens, &chosen);
            put(input, value.end..value.end, close.repeat(times).as_bytes());
            put(
                input,
                value.start..value.start,
                open.repeat(times).as_bytes(),
            );
        }
    }
}

fn word<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    let own = !words.is_empty() && rng.u8(..3) != 0;
    let list = match (own, rng.bool()) {
        (true, _) => words,
        (false, true) => NUMBERS,
        (false, false) => TEXTS,
    };
    rng.choice(list).copied().unwrap_or_default()
}

fn put(input: &mut Vec<u8>, place: Range<usize>, with: &[u8]) {
    drop(input.splice(place, with.iter().copied()));
}

/// Quoted strings, words and numbers, single other characters. White space belongs to none.
fn tokens(text: &[u8]) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            b'"' => {
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
            }
            c if is_word(c) => {
                while at < text.len() && is_word(text[at]) {
                    at += 1;
                }
            }
            c if c.is_ascii_whitespace() => continue,
            _ => {}
        }
        tokens.push(start..at);
    }
    tokens
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80
}

/// What a token begins: to the bracket that closes it, or the token alone.
fn value(text: &[u8], tokens: &[Range<usize>], first: &Range<usize>) -> Range<usize> {
    let opens = |token: &Range<usize>| matches!(text[token.start], b'[' | b'{' | b'(');
    let closes = |token: &Range<usize>| matches!(text[token.start], b']' | b'}' | b')');
    if !opens(first) {
        return first.clone();
    }
    let mut depth = 0_usize;
    for token in tokens.iter().filter(|token| token.start >= first.start) {
        if opens(token) {
            depth += 1;
        } else if closes(token) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return first.start..token.end;
            }
        }
    }
    first.start..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_values_of_json() {
        let text = br#"{"a\"b": [1, -2.5], "c": null}"#;
        let tokens = tokens(text);
        let words: Vec<&str> = tokens
            .iter()
            .map(|token| std::str::from_utf8(&text[token.clone()]).unwrap())
            .collect();
        assert_eq!(
            words,
            [
                "{",
                r#""a\"b""#,
                ":",
                "[",
                "1",
                ",",
                "-",
                "2",
                ".",
                "5",
                "]",
                ",",
                "\"c\"",
                ":",
                "null",
                "}"
            ]
        );
        let list = value(text, &tokens, &tokens[3]);
        assert_eq!(&text[list], b"[1, -2.5]");
        assert_eq!(value(text, &tokens, &tokens[0]), 0..text.len());
        assert_eq!(value(b"[1", &[0..1, 1..2], &(0..1)), 0..2);
    }
}
