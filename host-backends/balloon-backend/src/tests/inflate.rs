//! Pages in and out. One rule: host memory is measured on its file.

use proptest::prelude::*;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature;

use super::rig::*;
use crate::BalloonSpec;
use crate::Repopulate;

const FIRST: u32 = (HIGH / PAGE_SIZE) as u32;

#[test]
fn host_memory_falls_by_what_is_inflated_and_nothing_else_is_lost() {
    let mut rig = Rig::new(everything());
    let before = rig.resident();
    rig.pages(INFLATE, FIRST + 16..FIRST + 272);
    assert_eq!(before - rig.resident(), 256 * PAGE_SIZE);
    rig.only_lost(|page| (FIRST + 16..FIRST + 272).contains(&(page as u32)));
    assert_eq!(rig.metrics().release_calls, 1, "one call for a run");
    assert_eq!(rig.device.ballooned(), 256 * PAGE_SIZE);
}

#[test]
fn numbers_in_any_order_become_few_ranges() {
    let mut rig = Rig::new(everything());
    // Every page of 1024, strided: neighbours are far apart in the message.
    let pages = (0..1024_u32).map(|at| FIRST + (at * 389) % 1024);
    rig.pages(INFLATE, pages);
    let metrics = rig.metrics();
    assert_eq!(metrics.inflated_pages, 1024);
    assert_eq!(metrics.release_calls, 1);
    assert_eq!(metrics.released_bytes, 4 << 20);
}

#[test]
fn pages_come_back_when_they_leave_the_balloon() {
    let mut rig = Rig::new(everything());
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + 512);
    rig.pages(DEFLATE, FIRST + 100..FIRST + 200);
    assert_eq!(rig.device.ballooned(), 412 * PAGE_SIZE);
    assert_eq!(
        before - rig.resident(),
        512 * PAGE_SIZE,
        "only use brings them back"
    );
    rig.touch(u64::from(FIRST) + 100..u64::from(FIRST) + 200);
    assert_eq!(before - rig.resident(), 412 * PAGE_SIZE);
    rig.pages(INFLATE, FIRST + 100..FIRST + 200);
    assert_eq!(before - rig.resident(), 512 * PAGE_SIZE);
    let metrics = rig.metrics();
    assert_eq!((metrics.inflated_pages, metrics.deflated_pages), (612, 100));
    assert_eq!((metrics.unknown_pages, metrics.repeated_pages), (0, 0));
}

#[test]
fn pages_can_be_there_before_they_are_acknowledged() {
    let mut rig = Rig::new(BalloonSpec {
        repopulate: Repopulate::Always,
        ..everything()
    });
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + 64);
    rig.pages(DEFLATE, FIRST..FIRST + 64);
    assert_eq!(rig.resident(), before);
    assert_eq!(rig.metrics().repopulated_bytes, 64 * PAGE_SIZE);
}

#[test]
fn a_run_over_two_regions_is_released_in_both() {
    let mut rig = Rig::new(everything());
    let border = (BORDER / PAGE_SIZE) as u32;
    let before = rig.resident();
    rig.pages(INFLATE, border - 8..border + 8);
    assert_eq!(before - rig.resident(), 16 * PAGE_SIZE);
    rig.only_lost(|page| (border - 8..border + 8).contains(&(page as u32)));
    assert_eq!(rig.metrics().release_calls, 2);
}

#[test]
fn numbers_lie_across_segments_at_any_byte() {
    let mut rig = Rig::new(everything());
    let bytes: Vec<u8> = (FIRST..FIRST + 8).flat_map(u32::to_le_bytes).collect();
    for cut in 1..bytes.len() {
        let parts = [rig.place(&bytes[..cut]), rig.place(&bytes[cut..])];
        rig.send(INFLATE, &parts, &[]);
        assert_eq!(rig.device.ballooned(), 8 * PAGE_SIZE, "cut at {cut}");
        rig.pages(DEFLATE, FIRST..FIRST + 8);
    }
    let single: Vec<_> = bytes.iter().map(|byte| rig.place(&[*byte])).collect();
    rig.send(INFLATE, &single, &[]);
    assert_eq!(rig.device.ballooned(), 8 * PAGE_SIZE);
    assert_eq!(rig.metrics().malformed_chains, 0);
}

#[test]
fn inhibited_pages_stay_on_the_host_until_it_ends() {
    // REGRESSIONS row 53: whoever copies or watches the memory asks for peace first.
    let mut rig = Rig::new(everything());
    let before = rig.resident();
    rig.device.inhibit(true);
    rig.pages(INFLATE, FIRST..FIRST + 512);
    rig.pages(DEFLATE, FIRST..FIRST + 256);
    assert_eq!(rig.resident(), before);
    rig.only_lost(|_| false);
    assert_eq!(rig.metrics().inhibited_bytes, 512 * PAGE_SIZE);
    rig.device.inhibit(false);
    assert_eq!(before - rig.resident(), 256 * PAGE_SIZE);
    rig.only_lost(|page| (FIRST + 256..FIRST + 512).contains(&(page as u32)));
}

#[test]
fn without_a_promise_to_tell_nothing_is_released_late() {
    let rest = !feature::MUST_TELL_HOST;
    let mut rig = Rig::with(
        BalloonSpec {
            packed: false,
            ..everything()
        },
        rest,
    );
    let before = rig.resident();
    rig.device.inhibit(true);
    rig.pages(INFLATE, FIRST..FIRST + 512);
    // Used again before the device was told of anything.
    rig.device.inhibit(false);
    assert_eq!(rig.resident(), before);
    rig.only_lost(|_| false);
}

#[test]
fn releasing_while_the_memory_is_copied_marks_the_pages() {
    use std::os::fd::AsFd;
    let mut rig = Rig::new(everything());
    let log = memfd(PAGE_SIZE, nix::sys::memfd::MFdFlags::empty());
    let log = guest_memory::DirtyLog::new(log.as_fd(), 0, PAGE_SIZE).expect("a log");
    let log = std::sync::Arc::new(log);
    let memory = rig
        .memory
        .with_log(Some(log.clone()))
        .expect("memory with a log");
    rig.memory = std::sync::Arc::new(memory);
    rig.pages(INFLATE, [FIRST + 5, FIRST + 6, FIRST + 9]);
    let marked: Vec<u64> = (HIGH / PAGE_SIZE..END / PAGE_SIZE)
        .filter(|page| log.is_marked(page * PAGE_SIZE))
        .map(|page| page - u64::from(FIRST))
        .collect();
    assert_eq!(marked, [5, 6, 9]);
}

#[test]
fn packed_rings_carry_pages_too() {
    let mut rig = Rig::with(everything(), u64::MAX);
    let before = rig.resident();
    for round in 0..200 {
        rig.pages(INFLATE, FIRST..FIRST + 64);
        assert_eq!(before - rig.resident(), 64 * PAGE_SIZE, "round {round}");
        rig.pages(DEFLATE, FIRST..FIRST + 64);
        rig.touch(u64::from(FIRST)..u64::from(FIRST) + 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_messages_leave_exactly_the_ballooned_pages_lost(messages in prop::collection::vec(
        (any::<bool>(), prop::collection::vec((0_u32..(END / PAGE_SIZE) as u32 + 64, 1_u32..40), 0..12)),
        1..20,
    )) {
        let mut rig = Rig::new(everything());
        let in_scratch = |page: u32| u64::from(page) * PAGE_SIZE < 8 << 20;
        let mut model = std::collections::BTreeSet::<u32>::new();
        for (inflate, runs) in messages {
            let pages: Vec<u32> = runs.iter().rev()
                .flat_map(|(start, len)| *start..start + len)
                .filter(|page| !in_scratch(*page))
                .collect();
            if pages.is_empty() {
                continue;
            }
            let memory = |page: &&u32| {
                let addr = u64::from(**page) * PAGE_SIZE;
                !(REGION..HIGH).contains(&addr) && addr < END
            };
            if inflate {
                rig.pages(INFLATE, pages.iter().copied());
                model.extend(pages.iter().filter(memory));
            } else {
                rig.pages(DEFLATE, pages.iter().copied());
                for page in pages.iter().filter(memory) {
                    model.remove(page);
                    rig.touch(u64::from(*page)..u64::from(*page) + 1);
                }
            }
            prop_assert_eq!(rig.device.ballooned(), model.len() as u64 * PAGE_SIZE);
        }
        rig.only_lost(|page| model.contains(&(page as u32)));
    }
}
