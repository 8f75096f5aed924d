//! Entry points for fuzzers; only in fuzzing builds.

use virtqueue::Segment;

use crate::request::Limits;
use crate::request::Operation;
use crate::request::Parsed;
use crate::request::Source;

/// Guest memory from address 0.
struct Flat<'a>(&'a [u8]);

impl Source for Flat<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> bool {
        let start = usize::try_from(addr).unwrap_or(usize::MAX);
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| self.0.get(start..end));
        bytes.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
}

/// Parses one request out of `data`: two counts, that many segments of 12 bytes, and the rest is guest memory.
pub fn request(data: &[u8]) {
    let Some((&[readable, writable], mut rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut segments = |count: u8| {
        let mut taken = Vec::new();
        for _ in 0..count % 16 {
            let Some((addr, after)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let Some((len, after)) = after.split_first_chunk::<4>() else {
                break;
            };
            rest = after;
            taken.push(Segment {
                addr: u64::from_le_bytes(*addr),
                len: u32::from_le_bytes(*len),
            });
        }
        taken
    };
    let (readable, writable) = (segments(readable), segments(writable));
    let limits = Limits {
        size: 1 << 30,
        block_size: 512,
        readonly: false,
        discard: true,
        write_zeroes: true,
    };
    let mut parsed = Parsed::default();
    let operation = parsed.parse(&readable, &writable, &Flat(rest), &limits);
    if let Ok(Operation::Read { offset, len } | Operation::Write { offset, len }) = operation {
        assert!(
            offset
                .checked_add(len)
                .is_some_and(|end| end <= limits.size)
        );
    }
    let inside = |range: &crate::request::Range| {
        range
            .offset
            .checked_add(range.len)
            .is_some_and(|end| end <= limits.size)
    };
    assert!(operation.is_err() || parsed.ranges.iter().all(inside));
}
