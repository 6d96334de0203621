//! Names of repositories.

use std::fmt;

/// `owner/name`, `owner/name@revision` or `owner/name/file.safetensors@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId {
    /// `owner/name`.
    pub name: String,
    /// A file in it.
    pub file: Option<String>,
    /// Branch, tag or commit.
    pub revision: String,
}

impl RepoId {
    /// Reads a name; `None` if it cannot be one of a repository.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
        let word = |s: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !s.is_empty() && s.len() <= 96 && s.bytes().all(fits) && !s.starts_with('.')
        };
        let plain = |s: &str| s.split('/').all(word);
        (word(owner) && word(name) && file.is_none_or(plain) && plain(revision)).then(|| Self {
            name: format!("{owner}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown() {
        for text in ["a/b", "a/b@v1.0", "a-1/b.c_d/e/f.safetensors@refs/pr/3"] {
            assert_eq!(RepoId::parse(text).unwrap().to_string(), text);
        }
        let id = RepoId::parse("a/b/c.ckpt").unwrap();
        assert_eq!((id.name.as_str(), id.file.as_deref()), ("a/b", Some("c.ckpt")));
        assert!(!id.is_commit());
        assert!(RepoId::parse(&format!("a/b@{}", "0f".repeat(20))).unwrap().is_commit());
        for text in
            ["", "a", "/a/b", "../a", "a/../b", "a/b@", "a/b@../x", "a b/c", "a/b/", "C:\\a/b"]
        {
            assert_eq!(RepoId::parse(text), None, "{text}");
        }
    }
}
