//! How long the hub is waited for, and how often it is asked again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bounds of waiting. Defaults are made for a person who looks at a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The head of an answer has to be there by then.
    pub head: Duration,
    /// Bytes of a body are counted over such spans.
    pub window: Duration,
    /// The fewest bytes of a body in a window, from which a body counts as coming.
    pub least: u64,
    /// A list of files has to be there by then.
    pub list: Duration,
    /// How often one thing is asked for.
    pub tries: usize,
    /// The first wait between two questions, where the hub names none; doubled each time.
    pub wait: Duration,
    /// The longest wait between two questions, also where the hub wants more. All of them together
    /// take at most twice as long.
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: seconds(40),
            window: seconds(30),
            least: 30 << 10,
            list: seconds(600),
            tries: 6,
            wait: seconds(1),
            // The hub counts requests over windows of 300 s.
            longest: seconds(320),
        }
    }
}

impl Limits {
    /// The same with a time of seconds without progress, by which both heads and bodies are judged.
    pub(super) fn with_timeout(self, seconds: f64) -> Self {
        let Ok(window) = Duration::try_from_secs_f64(seconds) else { return self };
        if window.is_zero() {
            return self;
        }
        Self { head: window, window, least: (seconds * 1024.0) as u64, ..self }
    }
}

/// What is left of the patience for one thing.
#[derive(Debug)]
pub(super) struct Patience {
    limits: Limits,
    asked: usize,
    waited: Duration,
    slow: usize,
    insists: bool,
}

/// Why it is at an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Asked so many times, over so much waiting.
    Tries(usize, Duration),
    /// The hub wants a longer wait.
    Longer(Duration),
}

impl Patience {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, asked: 1, waited: Duration::ZERO, slow: 0, insists: true }
    }

    /// Patience that ends where there is no connection at all: nothing was begun yet.
    pub(super) fn hasty(limits: Limits) -> Self {
        Self { insists: false, ..Self::new(limits) }
    }

    /// Whether to ask again where there is no connection.
    pub(super) fn insists(&self) -> bool {
        self.insists
    }

    /// Something came: it begins anew.
    pub(super) fn renew(&mut self) {
        *self = Self { insists: self.insists, ..Self::new(self.limits) };
    }

    /// How long to wait before asking again; `wanted` by the hub, if it says so.
    pub(super) fn again(&mut self, wanted: Option<Duration>) -> Result<Duration, Over> {
        if self.asked >= self.limits.tries {
            return Err(Over::Tries(self.asked, self.waited));
        }
        let usual = self.limits.wait.saturating_mul(1 << (self.asked - 1).min(16));
        let wait = match wanted {
            Some(wanted) if wanted > self.limits.longest => return Err(Over::Longer(wanted)),
            Some(wanted) => wanted.max(self.limits.wait.min(Duration::from_millis(100))),
            None => usual.min(self.limits.longest),
        };
        if self.waited + wait > 2 * self.limits.longest {
            return Err(Over::Tries(self.asked, self.waited));
        }
        self.asked += 1;
        self.waited += wait;
        Ok(wait)
    }

    /// The same after an answer that did not come in time, which cost a window already: only one more
    /// try.
    pub(super) fn slow(&mut self) -> Result<Duration, Over> {
        self.slow += 1;
        if self.slow > 1 {
            return Err(Over::Tries(self.asked, self.waited));
        }
        self.again(None)
    }

    /// `2 of 6`
    pub(super) fn count(&self) -> String {
        format!("{} of {}", self.asked, self.limits.tries)
    }
}

/// The wait that the heads of an answer ask for. `header` gives the value of one: `ratelimit`, as in
/// `"api";r=0;t=55` (none left for 55 s), or `retry-after`.
pub(super) fn wanted<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    now: SystemTime,
) -> Option<Duration> {
    let number = |key: &str| -> Option<u64> {
        let mut parts = header("ratelimit")?.split([';', ',']);
        let value =
            parts.find_map(|part| part.trim().strip_prefix(key)?.trim().strip_prefix('='))?;
        value.trim().parse().ok()
    };
    match (number("r"), number("t")) {
        (Some(0), Some(seconds)) => Some(Duration::from_secs(seconds.saturating_add(1))),
        _ => retry_after(header("retry-after")?, now),
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date of HTTP.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(http_date(text)?.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7), or of the older
/// `Sunday, 06-Nov-94 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, date) = text.split_once(", ")?;
    let mut parts = date.split([' ', '-']);
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.find(name).filter(|at| name.len() == 3 && at % 3 == 0)? as u64 / 3 + 1;
    let year = parts.next()?;
    let year: u64 = match (year.len(), year.parse::<u64>().ok()?) {
        (2, y) if y < 70 => 2000 + y,
        (2, y) => 1900 + y,
        (4, y) if (1970..=9999).contains(&y) => y,
        _ => return None,
    };
    let mut clock = parts.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1..=31).contains(&day) || h > 23 || m > 59 || s > 60 || parts.next() != Some("GMT") {
        return None;
    }
    // Days of the proleptic calendar, with years that begin in March.
    let (y, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * shifted + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn waits_that_the_hub_names_are_read() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let seconds = |text| retry_after(text, now).map(|d| d.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(seconds("Sunday, 06-Nov-94 08:49:37 GMT"), Some(7));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0), "past");
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Tue, 29 Feb 2028 12:00:00 GMT"), Some(1_835_438_400));
        for wrong in
            ["", "soon", "-1", "nan", "Sun, 06 Now 1994 08:49:37 GMT", "Sun, 06 Nov 1994 8 GMT"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_hub_s_own_limit_is_read() {
        let seconds = |limit: Option<&'static str>, after: Option<&'static str>| {
            let header = |name: &str| if name == "ratelimit" { limit } else { after };
            wanted(header, UNIX_EPOCH).map(|d| d.as_secs())
        };
        assert_eq!(seconds(Some(r#""api";r=0;t=55"#), None), Some(56));
        assert_eq!(seconds(Some(r#""api"; r = 0 ; t = 5"#), Some("1")), Some(6));
        assert_eq!(seconds(Some(r#""api";r=9;t=55"#), Some("3")), Some(3));
        assert_eq!(seconds(Some("odd"), None), None);
        assert_eq!(seconds(None, None), None);
    }

    #[test]
    fn patience_ends() {
        let limits = Limits { tries: 4, ..Limits::default() };
        let mut patience = Patience::new(limits);
        let waits: Vec<u64> =
            std::iter::from_fn(|| patience.again(None).ok()).map(|d| d.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4]);
        assert_eq!(patience.again(None), Err(Over::Tries(4, Duration::from_secs(7))));
        patience.renew();
        assert_eq!(patience.again(Some(Duration::from_secs(9))), Ok(Duration::from_secs(9)));
        let hour = Duration::from_secs(3600);
        assert_eq!(patience.again(Some(hour)), Err(Over::Longer(hour)));
        assert!(patience.slow().is_ok() && patience.slow().is_err());
    }
}
