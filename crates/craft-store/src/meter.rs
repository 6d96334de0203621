//! What the process takes, and what the machine has. Where the system does not say, there is `None`.

use std::fs;
use std::path::Path;

use crate::cgroup;

/// Seconds that the processors have worked for this process, all threads together: unlike the clock's,
/// they say little of what else the machine does.
pub fn cpu_seconds() -> Option<f64> {
    // Linux counts in hundredths of a second here, whatever its own clock (proc(5), `stat`).
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name of the program in brackets and may hold spaces.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Most memory that the process has held at a time, in bytes, since it began or [`forget_peak_rss`].
pub fn peak_rss_bytes() -> Option<u64> {
    bytes("/proc/self/status", "VmHWM")
}

/// Forgets the peak of resident memory, so that the next one is that of what follows. Where the system
/// does not offer this, peaks are those of the process so far.
pub fn forget_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Memory that can be taken without swapping, in bytes: what the machine has left, or what the limits of the
/// control groups of this process leave of it.
pub fn available_memory() -> Option<u64> {
    let machine = bytes("/proc/meminfo", "MemAvailable");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup::room(Path::new("/sys/fs/cgroup"), &groups);
    machine.into_iter().chain(limit).min()
}

/// Memory of the machine, in bytes.
pub fn total_memory() -> Option<u64> {
    bytes("/proc/meminfo", "MemTotal")
}

/// Name of the processor.
pub fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// A number of a file of the system in bytes.
fn bytes(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn linux_says_all_of_it() {
        assert!(cpu_seconds().unwrap() >= 0.0);
        let (peak, free, all) =
            (peak_rss_bytes().unwrap(), available_memory().unwrap(), total_memory().unwrap());
        assert!(peak > 1 << 16 && peak < all && free <= all, "{peak} {free} {all}");
        forget_peak_rss();
        assert!(peak_rss_bytes().unwrap() > 0);
        assert!(bytes("/proc/self/status", "Nothing").is_none());
    }
}
