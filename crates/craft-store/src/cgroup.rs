//! Limits of memory that a container or a scheduler sets by control groups.

use std::fs;
use std::path::Path;

/// What the limits on a process leave, in bytes; none without a limit. `groups` is its `/proc/self/cgroup`, `root`
/// where control groups are mounted. A limit of any group above counts too.
pub(crate) fn room(root: &Path, groups: &str) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        // One hierarchy for all controllers (version 2), or one of memory (version 1).
        let (top, files) = match controllers {
            "" => (root.to_owned(), ["memory.max", "memory.current"]),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes"])
            }
            _ => continue,
        };
        let own = top.join(path.trim_start_matches('/'));
        // In a container the mount begins at the process's own group, and the path leads nowhere.
        let groups = own.ancestors().take_while(|group| group.starts_with(&top));
        least = groups.filter_map(|group| left(group, files)).chain(least).min();
    }
    least
}

/// What the limit of a group leaves. Pages of files that nobody uses are given back when memory is asked for.
fn left(group: &Path, [limit, usage]: [&str; 2]) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
    };
    // Version 1 writes a number near 2^63 where there is none.
    let limit = number(limit).filter(|limit| *limit < 1 << 62)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = ["total_inactive_file ", "inactive_file "].into_iter().find_map(|key| {
        stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
    });
    let used = number(usage).unwrap_or(0).saturating_sub(files.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_a_process_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(room(root, "0::/a/b\n"), None);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "400\n");
        write("a/memory.stat", "anon 1\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(room(root, "0::/a/b\n"), Some(700));
        write("a/b/memory.max", "300\n");
        assert_eq!(room(root, "0::/a/b\n"), Some(300));
        write("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(room(root, "4:memory,cpu:/c\n"), None);
        write("memory/c/memory.limit_in_bytes", "50\n");
        write("memory/c/memory.usage_in_bytes", "60\n");
        assert_eq!(room(root, "4:memory,cpu:/c\n5:pids:/c\n0::/a/b\n"), Some(0));
        assert_eq!(room(root, "nonsense"), None);
    }
}
