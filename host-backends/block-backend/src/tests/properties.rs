//! Parsing, for any bytes and any way to cut them.

use proptest::collection::vec;
use proptest::prelude::*;
use virtio_spec::block::request_type::*;
use virtqueue::Segment;

use crate::request::Limits;
use crate::request::Operation;
use crate::request::Parsed;
use crate::request::Refusal;
use crate::request::Source;

/// Guest memory from address 0.
struct Flat(Vec<u8>);

impl Source for Flat {
    fn read(&self, addr: u64, out: &mut [u8]) -> bool {
        let Ok(addr) = usize::try_from(addr) else {
            return false;
        };
        let Some(bytes) = addr
            .checked_add(out.len())
            .and_then(|end| self.0.get(addr..end))
        else {
            return false;
        };
        out.copy_from_slice(bytes);
        true
    }
}

const SIZE: u64 = 1 << 20;

fn limits(readonly: bool) -> Limits {
    Limits {
        size: SIZE,
        block_size: 512,
        readonly,
        discard: true,
        write_zeroes: true,
    }
}

/// `len` bytes from `addr` on, cut at `cuts`.
fn cut(addr: u64, len: usize, cuts: &[usize]) -> Vec<Segment> {
    let mut borders: Vec<_> = cuts.iter().map(|cut| cut % (len + 1)).collect();
    borders.extend([0, len]);
    borders.sort_unstable();
    let pairs = borders.windows(2).filter(|pair| pair[0] != pair[1]);
    pairs
        .map(|pair| Segment {
            addr: addr + pair[0] as u64,
            len: u32::try_from(pair[1] - pair[0]).expect("a length"),
        })
        .collect()
}

fn message(kind: u32, sector: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn kinds() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(IN),
        Just(OUT),
        Just(FLUSH),
        Just(GET_ID),
        Just(DISCARD),
        Just(WRITE_ZEROES),
        any::<u32>()
    ]
}

fn sectors() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..SIZE / 512 + 2,
        any::<u64>(),
        (u64::MAX / 512 - 2)..=u64::MAX / 512 + 2
    ]
}

type Result = std::result::Result<Operation, Refusal>;

fn parse(
    memory: &Flat,
    readable: &[Segment],
    writable: &[Segment],
    limits: &Limits,
) -> (Result, Parsed) {
    let mut parsed = Parsed::default();
    let result = parsed.parse(readable, writable, memory, limits);
    (result, parsed)
}

proptest! {
    #[test]
    fn how_a_request_is_cut_makes_no_difference(
        (kind, sector) in (kinds(), sectors()),
        rest in vec(any::<u8>(), 0..100),
        room in 0..2000_usize,
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let bytes = message(kind, sector, &rest);
        let len = bytes.len();
        let memory = Flat(bytes);
        let whole = parse(&memory, &cut(0, len, &[]), &cut(4096, room, &[]), &limits(false));
        let pieces = parse(&memory, &cut(0, len, &cuts), &cut(4096, room, &cuts), &limits(false));
        prop_assert_eq!(whole.0, pieces.0);
        prop_assert_eq!(&whole.1.ranges, &pieces.1.ranges);
        if room != 0 {
            prop_assert_eq!(whole.1.status_addr, 4096 + room as u64 - 1);
            prop_assert_eq!(pieces.1.status_addr, whole.1.status_addr);
        }
        let total = |parsed: &Parsed| parsed.data.iter().map(|part| u64::from(part.len)).sum::<u64>();
        prop_assert_eq!(total(&whole.1), total(&pieces.1));
    }

    #[test]
    fn what_is_accepted_lies_within_the_disk_and_its_buffers(
        (kind, sector) in (kinds(), sectors()),
        ranges in vec((sectors(), any::<u32>(), 0..4_u32), 0..34),
        blocks in 0..5_usize,
        readonly in any::<bool>(),
    ) {
        let mut rest = Vec::new();
        for (sector, count, flags) in &ranges {
            rest.extend(sector.to_le_bytes());
            rest.extend((count % 3000).to_le_bytes());
            rest.extend((flags / 2).to_le_bytes());
        }
        let bytes = message(kind, sector, &rest);
        let len = bytes.len();
        let (result, parsed) =
            parse(&Flat(bytes), &cut(0, len, &[]), &cut(4096, blocks * 512 + 1, &[]), &limits(readonly));
        match result {
            Ok(Operation::Read { offset, len } | Operation::Write { offset, len }) => {
                prop_assert!(offset.checked_add(len).is_some_and(|end| end <= SIZE));
                let data: u64 = parsed.data.iter().map(|part| u64::from(part.len)).sum();
                prop_assert_eq!(data, len);
            }
            Ok(Operation::Discard | Operation::WriteZeroes) => {
                prop_assert_eq!(parsed.ranges.len(), ranges.len());
                for range in &parsed.ranges {
                    prop_assert!(range.offset.checked_add(range.len).is_some_and(|end| end <= SIZE));
                }
            }
            _ => {}
        }
        if readonly {
            let changes = matches!(
                result,
                Ok(Operation::Write { .. } | Operation::Discard | Operation::WriteZeroes)
            );
            prop_assert!(!changes);
        }
    }

    #[test]
    fn any_segments_at_all_end_in_an_answer(
        bytes in vec(any::<u8>(), 0..300),
        readable in vec((any::<u64>(), any::<u32>()), 0..8),
        writable in vec((any::<u64>(), any::<u32>()), 0..8),
        near in any::<bool>(),
    ) {
        let segments = |from: Vec<(u64, u32)>| -> Vec<Segment> {
            let keep = |(addr, len): (u64, u32)| if near { (addr % 320, len % 320) } else { (addr, len) };
            from.into_iter().map(keep).map(|(addr, len)| Segment { addr, len }).collect()
        };
        let writable = segments(writable);
        let room = writable.iter().any(|part| part.len != 0);
        let (result, _) = parse(&Flat(bytes), &segments(readable), &writable, &limits(false));
        if !room {
            prop_assert_eq!(result, Err(Refusal::NoStatus));
        }
    }
}
