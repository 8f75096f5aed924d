//! What the test runners said: totals, skips and times out of libtest's lines.
//!
//! One rule: a runner that breaks off counts as a failure even when no test failed.

use serde::Serialize;

/// One test that did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub name: String,
    pub reason: String,
}

/// How long one test took, or what else takes its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timed {
    /// With the test program before it, as cargo names it.
    pub name: String,
    pub seconds: f64,
}

/// What one runner did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    pub runner: String,
    pub passed: u64,
    pub failed: u64,
    pub skipped: Vec<Skipped>,
    pub seconds: u64,
    #[serde(skip)]
    pub times: Vec<Timed>,
    /// The test program whose lines come now.
    #[serde(skip)]
    program: String,
    /// Tests that skipped themselves and will be counted as passed all the same.
    #[serde(skip)]
    pub unearned: u64,
}

impl Totals {
    /// A runner that has done nothing yet.
    pub fn of(runner: &str) -> Self {
        Self {
            runner: runner.into(),
            ..Self::default()
        }
    }

    /// A runner that could not start.
    pub fn not_run(runner: &str, reason: &str) -> Self {
        let skipped = vec![Skipped {
            name: runner.into(),
            reason: reason.into(),
        }];
        Self {
            skipped,
            ..Self::of(runner)
        }
    }

    /// Takes note of one line of a runner.
    pub fn line(&mut self, line: &str) {
        if let Some(program) = line.trim_start().strip_prefix("Running ") {
            self.program = program_name(program);
        } else if let Some((name, seconds)) = took(line) {
            self.time(&format!("{}: {name}", self.program), seconds);
        }
        self.count_line(line);
    }

    /// Takes note of how long something took.
    pub fn time(&mut self, name: &str, seconds: f64) {
        let name = name.into();
        self.times.push(Timed { name, seconds });
    }

    /// Takes over what another command of the same runner did.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.seconds += other.seconds;
        self.times.extend(other.times);
    }

    /// Whether no test ran and none was skipped.
    pub fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped.is_empty()
    }

    fn count_line(&mut self, line: &str) {
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

/// The name and time of a test, in libtest's words (`test a ... ok <0.1s>`) or those of tests/vm (`TOOK a: 0.1 s`).
fn took(line: &str) -> Option<(&str, f64)> {
    let (name, seconds) = if let Some(told) = line.strip_prefix("TOOK ") {
        told.strip_suffix(" s")?.rsplit_once(": ")?
    } else {
        let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
        (name, rest.strip_suffix("s>")?.rsplit_once('<')?.1)
    };
    Some((name, seconds.parse().ok()?))
}

/// The short name of what cargo runs: `unittests src/lib.rs (target/debug/deps/boot-0123)` is `boot`.
fn program_name(program: &str) -> String {
    let file = program.rsplit(['/', '(']).next().unwrap_or(program);
    let file = file.trim_end_matches(')');
    file.rsplit_once('-')
        .map_or(file, |(name, _)| name)
        .to_string()
}

/// The longest of all, the longest first.
pub fn slowest(all: &[Totals], count: usize) -> Vec<Timed> {
    let times = all.iter().flat_map(|totals| totals.times.clone());
    let mut times: Vec<Timed> = times.collect();
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    times.truncate(count);
    times
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
    fn the_slowest_tests_are_named_with_their_programs() {
        let mut totals = Totals::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/block_backend-0123abc)",
            "test engine::tests::quick ... ok <0.001s>",
            "test engine::tests::slow ... FAILED <1.500s>",
            "test engine::tests::left_out ... ignored, needs two days",
            "     Running tests/machines/main.rs (target/debug/deps/machines-0123abc)",
            "TOOK debian_boots: 12.25 s",
        ] {
            totals.line(line);
        }
        let found = slowest(&[totals], 2);
        let found: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.seconds)).collect();
        let expected = [
            ("machines: debian_boots", 12.25),
            ("block_backend: engine::tests::slow", 1.5),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_run_without_any_test_is_empty() {
        let mut totals = Totals::default();
        totals.line("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out");
        totals.end(true);
        assert!(totals.is_empty());
        totals.line("SKIP a: no /dev/kvm");
        assert!(!totals.is_empty());
    }

    #[test]
    fn a_runner_that_breaks_off_is_a_failure() {
        let mut totals = Totals::default();
        totals.end(false);
        assert_eq!(totals.failed, 1);
    }
}
