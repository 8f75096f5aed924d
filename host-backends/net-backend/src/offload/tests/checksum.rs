//! Sums and their completion.
//!
//! Rule: the slow sum is the oracle.

use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use proptest::prelude::*;
use virtio_spec::net::Header;
use virtio_spec::net::header_flags;
use virtqueue::Segment;

use super::slow_sum;
use crate::offload::GuestTail;
use crate::offload::Refusal;
use crate::offload::Sum;
use crate::offload::Tail;
use crate::offload::complete;

fn needs(start: u16, offset: u16) -> Header {
    Header {
        flags: header_flags::NEEDS_CSUM,
        csum_start: start.into(),
        csum_offset: offset.into(),
        ..Header::default()
    }
}

proptest! {
    #[test]
    fn sums_do_not_depend_on_how_the_bytes_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        cuts in proptest::collection::vec(0usize..5000, 0..8),
    ) {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut sum = Sum::default();
        let mut from = 0;
        for cut in cuts {
            sum.add(&bytes[from..cut]);
            from = cut;
        }
        sum.add(&bytes[from..]);
        // Both forms of zero are the same sum.
        let (fast, slow) = (sum.partial(), slow_sum(&bytes));
        prop_assert_eq!(fast % 0xffff, slow % 0xffff);
        prop_assert_eq!(fast == 0, slow == 0);
    }

    #[test]
    fn a_completed_checksum_makes_the_sum_right(
        mut frame in proptest::collection::vec(any::<u8>(), 100..3000),
        start in 0u16..60,
        offset in 0u16..30,
        owned in 0usize..3000,
    ) {
        // The field may lie at an odd distance, which no protocol does: then the sum does not come out.
        let offset = offset & !1;
        let at = usize::from(start + offset);
        let field = slow_sum(&frame[at..at + 2]);
        let owned = owned.min(frame.len());
        let (head, tail) = frame.split_at_mut(owned);
        let mut header = needs(start, offset);
        let done = complete(&mut header, head, &*tail);
        if owned < at + 2 {
            prop_assert_eq!(done, Err(Refusal::Checksum));
            prop_assert_eq!(header, needs(start, offset));
        } else {
            prop_assert_eq!(done, Ok(()));
            prop_assert_eq!(header, Header::default());
            // The sum over everything, with what stood in the field before, is all ones.
            let sum = u32::from(slow_sum(&frame[usize::from(start)..])) + u32::from(field);
            prop_assert_eq!(sum % 0xffff, 0);
            prop_assert_ne!(slow_sum(&frame[at..at + 2]), 0, "zero means that there is none");
        }
    }
}

#[test]
fn row_10_a_checksum_beyond_a_short_packet_is_refused() {
    // An SCTP packet of 4 bytes, whose checksum would lie at 8 (CVE-2024-3567), and every cut of every other place.
    let mut frame = vec![0u8; 14 + 20 + 4];
    for start in 0..=70u16 {
        for offset in [0, 1, 6, 8, 16, 40, 0xffff] {
            let mut header = needs(start, offset);
            let before = frame.clone();
            let done = complete(&mut header, &mut frame, [].as_slice());
            let fits = usize::from(start) + usize::from(offset) + 2 <= frame.len();
            assert_eq!(done.is_ok(), fits, "{start} {offset}");
            if !fits {
                assert_eq!((done, &frame), (Err(Refusal::Checksum), &before));
            }
        }
    }
    let mut header = needs(34, 8);
    let short = complete(&mut header, &mut frame, [].as_slice());
    assert_eq!(short, Err(Refusal::Checksum));
    for bytes in 0..34 + 20 {
        let mut frame = vec![7; bytes];
        let _ = complete(&mut needs(34, 16), &mut frame, [].as_slice());
    }
}

#[test]
fn a_tail_in_guest_memory_is_read_over_its_segments() {
    let fd = host_os::memfd::create("guest", 0x10000).unwrap();
    let region = RegionSpec {
        guest_addr: 0,
        user_addr: 0,
        size: 0x10000,
        mmap_offset: 0,
    };
    let memory = GuestMemory::new(vec![(region, fd)]).unwrap();
    let bytes: Vec<u8> = (0..9000u32).map(|i| (i % 251) as u8).collect();
    let mut segments = Vec::new();
    let mut done = 0;
    for (nth, len) in [1usize, 2999, 3, 4000, 1997].into_iter().enumerate() {
        let addr = 0x8000 - 0x1800 * nth as u64;
        memory.write(addr, &bytes[done..done + len]).unwrap();
        segments.push(Segment {
            addr,
            len: u32::try_from(len).unwrap(),
        });
        done += len;
    }
    let tail = GuestTail::new(&memory, &segments);
    assert_eq!(tail.len(), 9000);
    for (from, len) in [
        (0, 9000),
        (1, 1),
        (0, 1),
        (2999, 5),
        (8999, 1),
        (9000, 0),
        (17, 4097),
    ] {
        let mut got = vec![0; len];
        assert!(tail.read(from, &mut got), "{from} {len}");
        assert_eq!(got, bytes[from..from + len], "{from} {len}");
        let mut seen = Vec::new();
        assert!(tail.visit(from, len, &mut |piece| seen.extend_from_slice(piece)));
        assert_eq!(seen, got);
    }
    assert!(!tail.read(8999, &mut [0; 2]));
    assert!(!tail.read(9001, &mut [0; 1]));
    segments[2].addr = 0x2_0000;
    let tail = GuestTail::new(&memory, &segments);
    assert!(!tail.read(2990, &mut [0; 20]), "a hole");
    let mut head = vec![0; 64];
    let refused = complete(&mut needs(14, 16), &mut head, &tail);
    assert_eq!((refused, head), (Err(Refusal::Memory), vec![0; 64]));
}
