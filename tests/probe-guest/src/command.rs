//! The command line: jobs with parameters.
//!
//! Rule: unknown words are for others (a kernel command line has many) and are skipped; a known parameter with a bad value is an error.
use alloc::vec::Vec;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Probe,
    Verify,
    Sequence,
    Load,
    Balloon,
    NetInfo,
    Ping,
    Udp,
    Tcp,
    Flood,
    Pingpong,
    Peer,
}

/// The jobs by their names.
const JOBS: &[(&str, Job)] = &[
    ("probe", Job::Probe),
    ("verify", Job::Verify),
    ("sequence", Job::Sequence),
    ("load", Job::Load),
    ("balloon", Job::Balloon),
    ("netinfo", Job::NetInfo),
    ("ping", Job::Ping),
    ("udp", Job::Udp),
    ("tcp", Job::Tcp),
    ("flood", Job::Flood),
    ("pingpong", Job::Pingpong),
    ("peer", Job::Peer),
];

/// A job with its parameters: the common ones first, its own after them.
pub(crate) struct Task<'a> {
    pub(crate) job: Job,
    words: Vec<&'a str>,
}

/// Cuts a command line into tasks.
pub(crate) fn parse(line: &str) -> Vec<Task<'_>> {
    let mut common = Vec::new();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (index, group) in line.split(';').enumerate() {
        let mut words = common.clone();
        let mut jobs = Vec::new();
        for word in group.split_ascii_whitespace() {
            match JOBS.iter().find(|(name, _)| *name == word) {
                Some((_, job)) => jobs.push(*job),
                None => {
                    if index == 0 && jobs.is_empty() {
                        common.push(word);
                    }
                    words.push(word);
                }
            }
        }
        tasks.extend(jobs.into_iter().map(|job| Task {
            job,
            words: words.clone(),
        }));
    }
    tasks
}

impl<'a> Task<'a> {
    /// A parameter's text, the last one given.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.words
            .iter()
            .rev()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// A number, with an optional suffix `k`, `M` or `G`.
    ///
    /// # Errors
    /// The text that is no number.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, &'a str> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        number(text).ok_or(text)
    }

    /// Whether a parameter is `1`; `default` when it is not given.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.text(name)
            .map_or(default, |text| matches!(text, "1" | "on" | "true" | "yes"))
    }
}

/// A number, with an optional suffix `k`, `M` or `G`.
pub(crate) fn number(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 1 << 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 1 << 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
