//! Free pages that the guest reports. One rule: they are gone before the guest hears so.

use device_model::Device;
use virtio_spec::balloon::CONFIG_POISON_OFFSET;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature;
use virtqueue::Segment;

use super::rig::*;
use crate::BalloonSpec;

const POISON: u32 = CONFIG_POISON_OFFSET as u32;

fn report(rig: &mut Rig, ranges: &[(u64, u32)]) {
    let segments: Vec<_> = ranges
        .iter()
        .map(|(addr, len)| Segment {
            addr: *addr,
            len: *len,
        })
        .collect();
    let id = rig.send(REPORTS, &[], &segments);
    assert_eq!(rig.lanes[REPORTS].back.pop(), Some(id));
}

#[test]
fn reported_pages_are_gone_when_the_report_comes_back() {
    let mut rig = Rig::new(everything());
    let before = rig.resident();
    let ranges: Vec<_> = (0..8).map(|at| (HIGH + at * (2 << 20), 1 << 20)).collect();
    report(&mut rig, &ranges);
    assert_eq!(before - rig.resident(), 8 << 20);
    let metrics = rig.metrics();
    assert_eq!(
        (metrics.reported_bytes, metrics.release_calls),
        (8 << 20, 8)
    );
    // The guest uses them again without a word.
    rig.touch(HIGH / PAGE_SIZE..HIGH / PAGE_SIZE + 256);
    assert_eq!(before - rig.resident(), 7 << 20);
    rig.only_lost(|page| {
        let into = (page * PAGE_SIZE).wrapping_sub(HIGH);
        (1 << 20..16 << 20).contains(&into) && into % (2 << 20) < 1 << 20
    });
}

#[test]
fn a_driver_that_fills_free_pages_keeps_them() {
    let mut rig = Rig::new(everything());
    let before = rig.resident();
    rig.device
        .write_config(POISON, &0xaa55_aa55_u32.to_le_bytes())
        .expect("poison");
    report(&mut rig, &[(HIGH, 1 << 20)]);
    assert_eq!(rig.resident(), before);
    rig.only_lost(|_| false);
    assert_eq!(rig.metrics().poisoned_bytes, 1 << 20);
    // Zeroes are what a hole reads as.
    rig.device.write_config(POISON, &[0; 4]).expect("no poison");
    report(&mut rig, &[(HIGH, 1 << 20)]);
    assert_eq!(before - rig.resident(), 1 << 20);
}

#[test]
fn poison_that_was_not_negotiated_says_nothing() {
    let spec = BalloonSpec {
        packed: false,
        ..everything()
    };
    let mut rig = Rig::with(spec, !feature::PAGE_POISON);
    let before = rig.resident();
    rig.device.write_config(POISON, &[1; 4]).expect("a write");
    report(&mut rig, &[(HIGH, 1 << 20)]);
    assert_eq!(before - rig.resident(), 1 << 20);
}

#[test]
fn inhibited_reports_come_back_with_nothing_done() {
    let mut rig = Rig::new(everything());
    rig.device.inhibit(true);
    report(&mut rig, &[(HIGH, 1 << 20)]);
    rig.device.inhibit(false);
    // By then the guest uses the pages again.
    rig.only_lost(|_| false);
}

#[test]
fn reports_on_any_boundary_lose_whole_pages_inside_only() {
    let mut rig = Rig::new(everything());
    report(
        &mut rig,
        &[
            (HIGH + 1, 8191),
            (HIGH + (1 << 20) + 4095, 2),
            (BORDER - 4096, 8192),
            (REGION - 4096, 8192),
        ],
    );
    let first = HIGH / PAGE_SIZE;
    let border = BORDER / PAGE_SIZE;
    rig.only_lost(|page| [first + 1, border - 1, border].contains(&page));
    assert_eq!(
        rig.metrics().malformed_chains,
        1,
        "the last one leaves memory"
    );
}
