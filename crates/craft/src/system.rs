//! What the machine is and what the process took of it.

/// A number of `/proc/<file>` in bytes, where there is one.
fn proc_bytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Most memory that the process has held, in bytes; `None` where the system does not say.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    proc_bytes("/proc/self/status", "VmHWM")
}

/// Seconds that the processors have spent on this process, all threads together: unlike the clock's,
/// they say little of what else the machine does. `None` where the system does not say.
pub(crate) fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name of the program in brackets and may hold spaces.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    // The kernel counts in hundredths towards programs.
    Some((ticks()? + ticks()?) / 100.0)
}

/// Memory that can be taken without swapping, in bytes.
pub(crate) fn memory_available_bytes() -> Option<u64> {
    proc_bytes("/proc/meminfo", "MemAvailable")
}

/// Memory of the machine, in bytes.
pub(crate) fn memory_total_bytes() -> Option<u64> {
    proc_bytes("/proc/meminfo", "MemTotal")
}

/// Name of the processor.
pub(crate) fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Instruction sets that the kernels can use and this processor has.
pub(crate) fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
            ("amx-bf16", craft_nn::ops::amx_active()),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

/// Bytes as text with a unit.
pub(crate) fn gibibytes(bytes: u64) -> String {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{:.0} MiB", gib * 1024.0) }
}
