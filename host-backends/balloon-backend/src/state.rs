//! A balloon's state as bytes, for a twin on another host.
//!
//! Rule: bytes that come back are checked as a whole before anything is believed, and what they say of pages is checked
//! against guest memory once that is known.

use std::ops::Range;

use device_model::Error;

const MAGIC: &[u8; 8] = b"PVBALN01";
/// Most runs of pages that are carried; a balloon in more pieces travels without its set.
const MOST_RUNS: usize = 1 << 16;
const HEAD: usize = 8 + 4 * 5;

/// What is carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub target: u32,
    pub actual: Option<u32>,
    pub poison: u32,
    /// Pages in the balloon.
    pub runs: Vec<Range<u64>>,
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let runs: &[Range<u64>] = if self.runs.len() > MOST_RUNS {
            &[]
        } else {
            &self.runs
        };
        let head = [
            self.target,
            u32::from(self.actual.is_some()),
            self.actual.unwrap_or(0),
            self.poison,
            u32::try_from(runs.len()).unwrap_or(0),
        ];
        for word in head {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for run in runs {
            // Page numbers have 32 bits; the last page's end is one more.
            bytes.extend_from_slice(&run.start.to_le_bytes());
            bytes.extend_from_slice(&run.end.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let short = Error::State("it is too short");
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(short)?;
        let (magic, words) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Error::State("it is no balloon's"));
        }
        let (words, _) = words.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or(0);
        let (target, known, actual, poison, count) = (next(), next(), next(), next(), next());
        let (numbers, odd) = rest.as_chunks::<8>();
        if known > 1
            || !odd.is_empty()
            || count as usize > MOST_RUNS
            || numbers.len() != 2 * count as usize
        {
            return Err(Error::State("its lengths contradict each other"));
        }
        let mut runs = Vec::with_capacity(count as usize);
        let mut end = 0;
        for pair in numbers.chunks_exact(2) {
            let [from, to] = pair else { continue };
            let run = u64::from_le_bytes(*from)..u64::from_le_bytes(*to);
            if run.is_empty() || run.start < end || run.end > u64::from(u32::MAX) + 1 {
                return Err(Error::State("its pages are out of order"));
            }
            end = run.end;
            runs.push(run);
        }
        Ok(Self {
            target,
            actual: (known == 1).then_some(actual),
            poison,
            runs,
        })
    }
}
