//! Processor time and peaks of resident memory of this process, stage by stage.

use std::sync::atomic::{AtomicU64, Ordering};

use craft_store::meter;

/// The largest peak that was forgotten.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

/// Seconds that processors have worked for this process; 0 where the system does not tell.
pub(crate) fn cpu_seconds() -> f64 {
    meter::cpu_seconds().unwrap_or_default()
}

/// Forgets the peak of resident memory, so that the next one is that of what follows.
pub(crate) fn forget_peak_rss() {
    FORGOTTEN.fetch_max(peak_rss_bytes(), Ordering::Relaxed);
    meter::forget_peak_rss();
}

/// Peak resident memory in bytes since it was last forgotten; 0 where the system does not tell.
pub(crate) fn peak_rss_bytes() -> u64 {
    meter::peak_rss_bytes().unwrap_or_default()
}

/// Peak resident memory in bytes since the process began.
pub(crate) fn whole_peak_rss_bytes() -> u64 {
    FORGOTTEN.load(Ordering::Relaxed).max(peak_rss_bytes())
}
