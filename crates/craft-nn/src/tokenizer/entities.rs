//! HTML entities: numeric ones, those of Latin-1 and the marks of running text
//! (html.spec.whatwg.org, named character references).

/// Entities of U+00A0 to U+00FF in order. They, and those of [`ASCII`], also count without
/// semicolon.
const LATIN: &str = "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr \
    deg plusmn sup2 sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest \
    Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc \
    Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute \
    THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave \
    iacute icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc \
    uuml yacute thorn yuml";
const ASCII: [(&str, char); 10] = [
    ("QUOT", '"'),
    ("quot", '"'),
    ("AMP", '&'),
    ("amp", '&'),
    ("LT", '<'),
    ("lt", '<'),
    ("GT", '>'),
    ("gt", '>'),
    ("COPY", '©'),
    ("REG", '®'),
];
/// These need their semicolon.
const MARKS: [(&str, char); 28] = [
    ("apos", '\''),
    ("Tab", '\t'),
    ("NewLine", '\n'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("sbquo", '‚'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bdquo", '„'),
    ("hellip", '…'),
    ("bull", '•'),
    ("trade", '™'),
    ("euro", '€'),
    ("dagger", '†'),
    ("permil", '‰'),
    ("lsaquo", '‹'),
    ("rsaquo", '›'),
    ("prime", '′'),
    ("minus", '−'),
    ("larr", '←'),
    ("rarr", '→'),
    ("infin", '∞'),
    ("hearts", '♥'),
    ("ensp", '\u{2002}'),
    ("emsp", '\u{2003}'),
    ("thinsp", '\u{2009}'),
];
/// Characters of the bytes 0x80 to 0x9F in Windows-1252; those without one stand for themselves.
const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";
/// Longest name that is looked at.
const LONGEST: usize = 32;

/// What Windows-1252 has at a code from 0x80 to 0x9F.
pub(super) fn windows_1252(code: u32) -> char {
    WINDOWS.chars().nth(code.wrapping_sub(0x80) as usize).unwrap_or('\u{fffd}')
}

/// Resolves entities as Python's `html.unescape` does.
pub(super) fn unescape(text: &str) -> String {
    replace(text, false)
}

/// Resolves the entities that end in a semicolon.
pub(super) fn unescape_strict(text: &str) -> String {
    replace(text, true)
}

fn replace(text: &str, strict: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let found = match tail.strip_prefix('#') {
            Some(number) => numeric(number, strict).map(|(c, used)| (c, used + 1)),
            None => named(tail, strict).map(|(c, used)| (Some(c), used)),
        };
        match found {
            Some((c, used)) => {
                out.extend(c);
                rest = &tail[used..];
            }
            None => {
                out.push('&');
                rest = tail;
            }
        }
    }
    out + rest
}

/// The character of `123;` or `x1f;`, none where it is not allowed in HTML, and the bytes used.
fn numeric(text: &str, strict: bool) -> Option<(Option<char>, usize)> {
    let (digits, radix, skip) = match text.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16, 1),
        None => (text, 10, 0),
    };
    let n = digits.bytes().take_while(|b| (*b as char).is_digit(radix)).count();
    let closed = digits.as_bytes().get(n) == Some(&b';');
    if n == 0 || (strict && !closed) {
        return None;
    }
    let code = u32::from_str_radix(&digits[..n], radix).unwrap_or(u32::MAX);
    let c = match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => Some(windows_1252(code)),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code & 0xfffe == 0xfffe && code <= 0x10_ffff => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    };
    Some((c, skip + n + usize::from(closed)))
}

/// The character of `amp;`, and the bytes used.
fn named(text: &str, strict: bool) -> Option<(char, usize)> {
    let n = text.bytes().take(LONGEST).take_while(u8::is_ascii_alphanumeric).count();
    let name = &text[..n];
    let latin = |name: &str| {
        let place = LATIN.split_whitespace().position(|entity| entity == name)?;
        char::from_u32(0xa0 + place as u32)
    };
    let of = |list: &[(&str, char)], name: &str| Some(list.iter().find(|(e, _)| *e == name)?.1);
    let old = |name: &str| of(&ASCII, name).or_else(|| latin(name));
    if text.as_bytes().get(n) == Some(&b';')
        && let Some(c) = old(name).or_else(|| of(&MARKS, name))
    {
        return Some((c, n + 1));
    }
    if strict {
        return None;
    }
    (2..=n).rev().find_map(|end| Some((old(&name[..end])?, end)))
}
