//! Proofs by exhaustion of the index arithmetic.
//!
//! One rule: each function is compared with its definition in integers that do not wrap. Where all
//! triples of 16-bit values are too many, one value runs over all of them and the others over a set
//! with every boundary; both arguments of a difference run over all pairs.

use std::vec::Vec;

use super::*;

/// Values around every boundary of 16-bit arithmetic.
fn edges() -> Vec<u16> {
    let mut values = Vec::new();
    for centre in [
        0_u16, 1, 2, 255, 256, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff,
    ] {
        for offset in [0_u16, 1, 2, 0xffff, 0xfffe] {
            values.push(centre.wrapping_add(offset));
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

#[test]
fn distance_counts_steps_forward() {
    for from in edges() {
        for steps in 0..=u16::MAX {
            let to = ((u32::from(from) + u32::from(steps)) % 0x1_0000) as u16;
            assert_eq!(distance(from, to), steps);
        }
    }
}

#[test]
fn pending_accepts_exactly_the_steps_up_to_the_limit() {
    for seen in edges() {
        for limit in [0, 1, 2, 255, 256, 32767, 32768] {
            for published in 0..=u16::MAX {
                let steps = (u32::from(published) + 0x1_0000 - u32::from(seen)) % 0x1_0000;
                let expected = (steps <= u32::from(limit)).then_some(steps as u16);
                assert_eq!(pending(seen, published, limit), expected);
            }
        }
    }
}

#[test]
fn an_index_that_moved_backwards_is_never_pending() {
    for seen in 0..=u16::MAX {
        for back in [1, 2, 255, 32767] {
            assert_eq!(pending(seen, seen.wrapping_sub(back), 32768), None);
        }
    }
}

#[test]
fn within_is_membership_of_the_run() {
    for first in edges() {
        for count in [0, 1, 2, 3, 256, 32768] {
            for index in 0..=u16::MAX {
                let steps = (u32::from(index) + 0x1_0000 - u32::from(first)) % 0x1_0000;
                assert_eq!(within(index, first, count), steps < u32::from(count));
            }
        }
    }
}

#[test]
fn need_event_is_true_when_the_event_entry_was_passed() {
    for old in edges() {
        for moved in [0_u16, 1, 2, 3, 255, 256, 32768] {
            let new = old.wrapping_add(moved);
            for event in 0..=u16::MAX {
                // The event entry is one of those written: old, old + 1, ... new - 1.
                let steps = (u32::from(event) + 0x1_0000 - u32::from(old)) % 0x1_0000;
                assert_eq!(need_event(event, new, old), steps < u32::from(moved));
            }
        }
    }
}

#[test]
fn never_is_met_by_no_move_a_queue_can_make() {
    for next in 0..=u16::MAX {
        for moved in [1, 2, 256, 32767, 32768] {
            assert!(!need_event(never(next), next.wrapping_add(moved), next));
        }
    }
}

/// A packed position as a count of slots since the start.
fn position(count: u32, size: u16) -> PackedPosition {
    let size = u32::from(size);
    let slot = (count % size) as u16;
    PackedPosition {
        slot,
        wrap: (count / size).is_multiple_of(2),
    }
}

#[test]
fn packed_positions_advance_like_a_count() {
    for size in [1, 2, 3, 4, 5, 7, 8, 255, 256, 1000] {
        for count in 0..2 * u32::from(size) {
            for moved in 0..=size {
                let to = position(count + u32::from(moved), size);
                assert_eq!(position(count, size).advance(moved, size), to);
                assert_eq!(position(count, size).distance(to, size), Some(moved));
            }
        }
    }
    for slot in 0..32768 {
        for moved in [0, 1, 2, 32766, 32767, 32768] {
            let from = PackedPosition { slot, wrap: true };
            let to = position(u32::from(slot) + u32::from(moved), 32768);
            assert_eq!(from.advance(moved, 32768), to);
        }
    }
}

#[test]
fn packed_positions_retreat_to_where_they_came_from() {
    for size in [1, 2, 3, 7, 16, 32768_u16] {
        for start in [0, 1, size - 1] {
            for wrap in [false, true] {
                let value = start.min(size - 1) | u16::from(wrap) << 15;
                let from = PackedPosition::decode(value, size).unwrap();
                for count in [0, 1, size / 2, size - 1, size] {
                    assert_eq!(from.advance(count, size).retreat(count, size), from);
                }
            }
        }
    }
}

#[test]
fn packed_positions_further_than_the_ring_have_no_distance() {
    for size in [1_u16, 2, 3, 4, 8, 255, 256] {
        for count in 0..2 * u32::from(size) {
            for ahead in 1 + u32::from(size)..2 * u32::from(size) {
                let to = position(count + ahead, size);
                assert_eq!(position(count, size).distance(to, size), None);
            }
        }
    }
}

#[test]
fn every_encoded_position_decodes_or_is_refused() {
    for size in [1, 2, 3, 255, 256, 32767, 32768] {
        for value in 0..=u16::MAX {
            match PackedPosition::decode(value, size) {
                Some(position) => {
                    assert_eq!(position.encode(), value);
                    assert!(position.slot() < size);
                }
                None => assert!(value & 0x7fff >= size),
            }
        }
    }
}

#[test]
fn a_packed_event_counts_when_its_slot_was_passed() {
    for size in [1_u16, 2, 3, 4, 5, 8, 64] {
        for count in 0..2 * u32::from(size) {
            for moved in 1..=size {
                let to = position(count + u32::from(moved), size);
                // The peer asks for a position at most a lap behind or ahead of where it looks.
                for event in 0..u32::from(size) {
                    let asked = position(count + event, size).encode();
                    let passed = event < u32::from(moved);
                    assert_eq!(
                        to.passed(asked, moved, size),
                        passed,
                        "{size} {count} {moved} {event}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_packed_event_value_is_accepted() {
    for size in [1, 3, 256, 32768] {
        for event in 0..=u16::MAX {
            for to in [
                PackedPosition::START,
                PackedPosition {
                    slot: size - 1,
                    wrap: false,
                },
            ] {
                let _ = to.passed(event, 1, size);
                let _ = to.passed(event, size, size);
            }
        }
    }
}

#[test]
fn a_descriptor_is_available_by_its_two_flags_alone_in_the_lap_of_the_position() {
    for wrap in [false, true] {
        let position = PackedPosition::new(3, wrap, 8).unwrap();
        assert_eq!((position.slot(), position.wrap()), (3, wrap));
        for flags in 0..=u16::MAX {
            let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
            let expected = avail == wrap && used != wrap;
            assert_eq!(position.is_available(flags), expected, "{flags:#x} {wrap}");
        }
    }
    assert_eq!(PackedPosition::new(8, true, 8), None);
}
