//! Single numbers of a resolved recipe, which is shown even where this version cannot use it.

/// A whole number of a section.
pub(super) fn number(recipe: &str, section: &str, key: &str) -> Option<usize> {
    let mut lines = recipe.lines().map(str::trim);
    lines.find(|line| line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) == Some(section))?;
    let own = lines.take_while(|line| !line.starts_with('['));
    own.filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .and_then(|(_, value)| value.split('#').next()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_those_of_their_section() {
        let recipe = "[train]\nmax_samples = 1\n\n[select]\nmargin = 0.0\nmax_samples = 20\n[x]\n";
        assert_eq!(number(recipe, "select", "max_samples"), Some(20));
        let other = "[select]\nmargin = 0.0\n[y]\nmax_samples = 3\n";
        assert_eq!(number(other, "select", "max_samples"), None);
    }
}
