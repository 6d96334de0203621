//! What the operating system says of this process: processor time and resident memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// The largest peak that was forgotten.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

/// Seconds that processors have worked for this process, all threads together; 0 where the system does not
/// tell. Unlike time on the clock it says little of what else the machine does.
pub(crate) fn cpu_seconds() -> f64 {
    // Linux counts in hundredths of a second here, whatever its own clock (proc(5), `stat`).
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Forgets the peak of resident memory, so that the next one is that of what follows. Where the system
/// does not offer this, peaks are those of the process so far.
pub(crate) fn forget_peak_rss() {
    FORGOTTEN.fetch_max(peak_rss_bytes(), Ordering::Relaxed);
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory of this process in bytes since it was last forgotten; 0 where the system does not
/// tell.
pub(crate) fn peak_rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("VmHWM:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// Peak resident memory of this process in bytes since it began.
pub(crate) fn whole_peak_rss_bytes() -> u64 {
    FORGOTTEN.load(Ordering::Relaxed).max(peak_rss_bytes())
}
