//! What open_clip and OpenAI's CLIP do to a text before they cut it into tokens
//! (`open_clip/tokenizer.py`, `_clean_lower`): `ftfy.fix_text`, HTML entities resolved twice, one
//! space for all white space, lower case.
//!
//! This has these of ftfy's repairs: straight quotes, ligatures, full-width characters, line
//! breaks, control characters, terminal escapes, HTML entities and NFC; not the guess of a text
//! that was decoded with the wrong character set.

use tokenizers::NormalizedString;

use super::entities::{unescape, unescape_strict, windows_1252};

/// Most rounds of repair; each one that changes something may uncover more.
const ROUNDS: usize = 16;

/// The text as open_clip's tokenizer sees it.
pub fn clean(text: &str) -> String {
    // A text with a tag is HTML itself; its entities wait for the second step.
    let entities = !text.contains('<');
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        let fixed = round(&text, entities);
        if fixed == text {
            break;
        }
        text = fixed;
    }
    let text = unescape(&unescape(&text));
    // Python's `split` also takes these separators for white space.
    let space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
    let words: Vec<&str> = text.split(space).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

fn round(text: &str, entities: bool) -> String {
    let text = if entities { unescape_strict(text) } else { text.to_owned() };
    let text = without_terminal_escapes(&text).replace("\r\n", "\n");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{80}'..='\u{9f}' => match windows_1252(c as u32) {
                '\u{85}' => out.push('\n'),
                other => out.push(other),
            },
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}' => {}
            'ŉ' => out.push_str("ʼn"),
            'ﬅ' => out.push_str("ſt"),
            'Ĳ' | 'ĳ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | 'ﬀ'..='ﬆ' | '\u{3000}' | '！'..='￮' => {
                let mut wide = NormalizedString::from(c.to_string());
                wide.nfkc();
                out.push_str(wide.get());
            }
            other => out.push(other),
        }
    }
    let mut composed = NormalizedString::from(out);
    composed.nfc();
    composed.get().to_owned()
}

/// Drops `ESC [ numbers letter`.
fn without_terminal_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let tail = rest[at + 2..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match tail.chars().next() {
            Some(letter) if letter.is_ascii_alphabetic() => {
                out.push_str(&rest[..at]);
                rest = &tail[1..];
            }
            _ => {
                out.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: open_clip 3.3.0 (`basic_clean`, `whitespace_clean`, `lower`) with ftfy
    // 6.3.1.
    #[test]
    fn texts_are_cleaned_as_open_clip_does() {
        for (text, expected) in [
            ("A \u{201c}red\u{201d} cat\u{2019}s  hat", "a \"red\" cat's hat"),
            ("&lt;b&gt; &amp;amp; &#39;x&#x27; &copy;", "<b> & 'x' ©"),
            ("AT&T &ampamp this&not", "at&t & this¬"),
            ("<i>&amp;amp;amp;</i>", "<i>&amp;</i>"),
            ("\u{ff21}\u{ff22}\u{3000}ﬁne ﬅop Ĳs", "ab fine ſtop ijs"),
            ("a\u{1b}[31;1mred\u{1b}[0m\u{7}\u{feff} b", "ared b"),
            ("line\r\nbreak\u{2028}and\ttab\u{a0}space ", "line break and tab space"),
            ("cafe\u{301} \u{130}", "café i\u{307}"),
            ("", ""),
            (" \u{2003} ", ""),
            ("&#128; &#x110000; &#0; &#13;x", "€ � � x"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }
}
