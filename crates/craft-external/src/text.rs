//! Words of others, cut to what a message can hold.

/// Longest quotation, in characters.
const MOST: usize = 300;

/// The last part of a text on one line, without control characters.
pub(crate) fn tail(text: &str) -> String {
    let line = one_line(text);
    let n = line.chars().count();
    if n <= MOST {
        return line;
    }
    format!("… {}", line.chars().skip(n - MOST).collect::<String>())
}

/// The first part of a text on one line, without control characters.
pub(crate) fn head(text: &str) -> String {
    let line = one_line(text);
    if line.chars().count() <= MOST {
        return line;
    }
    format!("{} …", line.chars().take(MOST).collect::<String>())
}

fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_are_short_and_on_one_line() {
        assert_eq!(tail("a\n\tb\x1b[31m"), "a b [31m");
        assert_eq!(head(" a "), "a");
        let long = "äb".repeat(1000);
        assert!(tail(&long).starts_with("… ") && tail(&long).chars().count() == MOST + 2);
        assert!(head(&long).ends_with(" …") && head(&long).chars().count() == MOST + 2);
    }
}
