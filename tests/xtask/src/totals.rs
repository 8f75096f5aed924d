//! What the test runners said: totals and skips out of libtest's lines.
//!
//! One rule: a runner that breaks off counts as a failure even when no test failed.

use serde::Serialize;

/// One test that did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub name: String,
    pub reason: String,
}

/// What one runner did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub runner: String,
    pub passed: u64,
    pub failed: u64,
    pub skipped: Vec<Skipped>,
    pub seconds: u64,
    /// Tests that skipped themselves and will be counted as passed all the same.
    #[serde(skip)]
    pub unearned: u64,
}

impl Totals {
    /// A runner that could not start.
    pub fn not_run(runner: &str, reason: &str) -> Self {
        let skipped = vec![Skipped {
            name: runner.into(),
            reason: reason.into(),
        }];
        Self {
            runner: runner.into(),
            skipped,
            ..Self::default()
        }
    }

    /// Takes note of one line of a runner.
    pub fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, " passed");
            self.failed += count(result, " failed");
        } else if let Some((_, skip)) = line.split_once("SKIP ") {
            self.skip(skip);
        } else if let Some(skip) = line.strip_prefix("SKIPS ITSELF ") {
            // libtest has no word for this and will count it as passed.
            self.unearned += 1;
            self.skip(skip);
        } else if let Some((name, reason)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() {
                "ignored without a reason"
            } else {
                reason
            };
            self.skipped.push(Skipped {
                name: name.into(),
                reason: reason.into(),
            });
        }
    }

    fn skip(&mut self, text: &str) {
        if let Some((name, reason)) = text.split_once(": ") {
            self.skipped.push(Skipped {
                name: name.into(),
                reason: reason.into(),
            });
        }
    }

    /// The runner has ended.
    pub fn end(&mut self, success: bool) {
        self.passed = self
            .passed
            .saturating_sub(std::mem::take(&mut self.unearned));
        if !success && self.failed == 0 {
            self.failed = 1;
        }
    }
}

/// The number before `word`.
fn count(text: &str, word: &str) -> u64 {
    text.split(word)
        .next()
        .and_then(|before| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The line that a test run ends with.
pub fn last_line(all: &[Totals]) -> String {
    let passed: u64 = all.iter().map(|t| t.passed).sum();
    let failed: u64 = all.iter().map(|t| t.failed).sum();
    let skipped: usize = all.iter().map(|t| t.skipped.len()).sum();
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_result_lines() {
        let mut totals = Totals::default();
        totals.line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out");
        totals.line("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered");
        assert_eq!((totals.passed, totals.failed), (15, 2));
        totals.end(false);
        assert_eq!(last_line(&[totals]), "15 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn skips_carry_their_reasons() {
        let mut totals = Totals::default();
        totals.line("test a::b ... ignored, needs two days");
        totals.line("test c ... SKIP c: no /dev/kvm: not found");
        totals.line("test d ... ignored");
        let reasons: Vec<_> = totals.skipped.iter().map(|s| s.reason.as_str()).collect();
        let all = [
            "needs two days",
            "no /dev/kvm: not found",
            "ignored without a reason",
        ];
        assert_eq!(reasons, all);
    }

    #[test]
    fn a_test_that_skips_itself_did_not_pass() {
        let mut totals = Totals::default();
        totals.line("SKIPS ITSELF huge_pages: no huge pages");
        totals.line("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered");
        totals.end(true);
        assert_eq!(last_line(&[totals]), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_runner_that_breaks_off_is_a_failure() {
        let mut totals = Totals::default();
        totals.end(false);
        assert_eq!(totals.failed, 1);
    }
}
