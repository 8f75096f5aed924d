//! What the operator may choose. One rule: the defaults suit an unattended daemon.

use std::str::FromStr;
use std::time::Duration;

/// How a worker waits for the next request, and for the end of those in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Polling {
    /// Polls for waits that are usually short, and only while nobody else wants the CPU; sleeps through the others.
    #[default]
    Auto,
    /// Sleeps at once.
    Off,
    /// Never sleeps while the queue runs: lowest latency, one core per queue.
    Always,
    /// Polls this long after activity, then sleeps.
    Window(Duration),
}

impl FromStr for Polling {
    type Err = String;

    /// `auto`, `off`, `always`, or a number of microseconds (`50`, `50us`).
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "always" => Ok(Self::Always),
            other => {
                let digits = other
                    .strip_suffix("us")
                    .or(other.strip_suffix("µs"))
                    .unwrap_or(other);
                let micros: u64 = digits.parse().map_err(|_| {
                    format!("'{other}' is not auto, off, always or a number of microseconds")
                })?;
                Ok(Self::Window(Duration::from_micros(micros)))
            }
        }
    }
}

/// Options of one served device.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stands in log lines and thread names.
    pub name: String,
    /// How workers wait.
    pub polling: Polling,
}
