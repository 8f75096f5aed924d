//! Bounds what a peer can make us log. One rule: what is suppressed is counted and the count is logged.

use std::time::Duration;
use std::time::Instant;

const PERIOD: Duration = Duration::from_secs(10);
const BURST: u32 = 10;

/// Lets ten lines through in ten seconds.
#[derive(Debug)]
pub(crate) struct RateLimit {
    since: Instant,
    used: u32,
    suppressed: u64,
}

impl RateLimit {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            used: 0,
            suppressed: 0,
        }
    }

    /// `Some(n)` if a line may be logged, `n` lines having been suppressed before it.
    pub(crate) fn admit(&mut self) -> Option<u64> {
        if self.since.elapsed() >= PERIOD {
            self.since = Instant::now();
            self.used = 0;
        }
        if self.used == BURST {
            self.suppressed += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limit = RateLimit::new();
        assert!((0..BURST).all(|_| limit.admit() == Some(0)));
        assert!((0..100).all(|_| limit.admit().is_none()));
        assert_eq!(limit.suppressed, 100);
        limit.since -= PERIOD;
        assert_eq!(limit.admit(), Some(100));
    }
}
