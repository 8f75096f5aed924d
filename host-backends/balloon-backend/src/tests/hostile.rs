//! What a broken or hostile guest can say. One rule: it is counted, the queue lives, and nothing outside the named pages
//! changes.

use virtio_spec::balloon::PAGE_SIZE;
use virtqueue::Segment;

use super::rig::*;

const FIRST: u32 = (HIGH / PAGE_SIZE) as u32;
const LAST: u32 = (END / PAGE_SIZE) as u32 - 1;

#[test]
fn page_numbers_that_are_no_memory_are_counted() {
    let mut rig = Rig::new(everything());
    let hole = (REGION / PAGE_SIZE) as u32;
    for at in [INFLATE, DEFLATE] {
        let before = rig.metrics().foreign_pages;
        rig.pages(
            at,
            [
                LAST + 1,
                u32::MAX,
                u32::MAX - 1,
                hole,
                FIRST - 1,
                0x8000_0000,
            ],
        );
        assert_eq!(rig.metrics().foreign_pages - before, 6);
    }
    rig.only_lost(|_| false);
    assert_eq!(rig.device.ballooned(), 0);
}

#[test]
fn the_last_page_goes_and_what_surrounds_a_hole_too() {
    let mut rig = Rig::new(everything());
    let hole = (REGION / PAGE_SIZE) as u32;
    // One run from before the hole until after it.
    rig.pages(INFLATE, (hole - 2..FIRST + 2).chain([LAST]));
    rig.only_lost(|page| {
        let page = page as u32;
        (hole - 2..hole).contains(&page) || (FIRST..FIRST + 2).contains(&page) || page == LAST
    });
    let metrics = rig.metrics();
    assert_eq!(metrics.inflated_pages, 5);
    assert_eq!(metrics.foreign_pages, u64::from(FIRST - hole));
}

#[test]
fn page_zero_is_never_released() {
    let mut rig = Rig::new(everything());
    let before = rig.metrics();
    // A driver with numbers of eight bytes names page zero after each page.
    rig.pages(INFLATE, [FIRST, 0, FIRST + 1, 0, FIRST + 2, 0]);
    let metrics = rig.metrics();
    assert_eq!(metrics.zero_pages - before.zero_pages, 3);
    assert_eq!(
        (metrics.inflated_pages, metrics.released_bytes),
        (3, 3 * PAGE_SIZE)
    );
    rig.pages(DEFLATE, [0]);
    assert_eq!(rig.metrics().unknown_pages, 0);
}

#[test]
fn repeated_pages_are_counted_in_one_message_and_in_two() {
    let mut rig = Rig::new(everything());
    rig.pages(INFLATE, [FIRST, FIRST + 1, FIRST, FIRST]);
    assert_eq!(rig.metrics().repeated_pages, 2);
    // Inflated again by a driver that forgot: the page may be in use and back on the host, so it goes again.
    rig.touch(u64::from(FIRST)..u64::from(FIRST) + 1);
    rig.pages(INFLATE, [FIRST]);
    assert!(!rig.kept(FIRST.into()));
    let metrics = rig.metrics();
    assert_eq!((metrics.repeated_pages, metrics.inflated_pages), (3, 2));
    rig.pages(DEFLATE, [FIRST, FIRST]);
    assert_eq!(rig.metrics().repeated_pages, 4);
}

#[test]
fn pages_that_were_never_inflated_deflate_without_harm() {
    let mut rig = Rig::new(everything());
    rig.pages(DEFLATE, FIRST..FIRST + 10);
    assert_eq!(rig.metrics().unknown_pages, 10);
    rig.only_lost(|_| false);
}

#[test]
fn messages_of_odd_lengths_lose_only_their_tail() {
    let mut rig = Rig::new(everything());
    for len in [1, 2, 3, 5, 7] {
        let bytes: Vec<u8> = [FIRST, FIRST + 1]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let segment = rig.place(&bytes[..len]);
        for at in [INFLATE, DEFLATE] {
            let id = rig.send(at, &[segment], &[]);
            assert_eq!(rig.lanes[at].back.pop(), Some(id));
        }
    }
    let metrics = rig.metrics();
    assert_eq!(metrics.malformed_chains, 10);
    assert_eq!((metrics.inflated_pages, metrics.deflated_pages), (2, 2));
}

#[test]
fn messages_in_a_hole_or_in_the_wrong_direction_come_back() {
    let mut rig = Rig::new(everything());
    let hole = Segment {
        addr: REGION + 64,
        len: 64,
    };
    let edge = Segment {
        addr: REGION - 4,
        len: 8,
    };
    let wild = Segment {
        addr: u64::MAX - 3,
        len: 4096,
    };
    let good = rig.place(&FIRST.to_le_bytes());
    for (readable, writable) in [
        (vec![hole], vec![]),
        (vec![edge], vec![]),
        (vec![wild], vec![]),
        (vec![good, hole], vec![]),
        (vec![], vec![good]),
        (vec![good], vec![hole]),
    ] {
        for at in [INFLATE, DEFLATE, REPORTS, HINTS] {
            let id = rig.send(at, &readable, &writable);
            assert_eq!(rig.lanes[at].back.pop(), Some(id));
        }
    }
    let metrics = rig.metrics();
    assert!(metrics.malformed_chains >= 14, "{metrics:?}");
    rig.only_lost(|page| page == u64::from(FIRST));
}

#[test]
fn a_message_longer_than_memory_ends() {
    let mut rig = Rig::new(everything());
    // The whole upper memory read as page numbers, many times over in one chain: 12 GiB of numbers.
    let all = Segment {
        addr: HIGH,
        len: (END - HIGH) as u32,
    };
    let many = vec![all; 48];
    let start = std::time::Instant::now();
    let id = rig.send(INFLATE, &many, &[]);
    assert_eq!(rig.lanes[INFLATE].back.pop(), Some(id));
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
    assert!(rig.metrics().excess_pages > 0);
}

#[test]
fn storms_of_targets_reach_the_guest_as_the_last_one() {
    use device_model::Device;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    let rig = Rig::new(everything());
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    rig.device.on_config_change(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    for round in 0..10_000_u64 {
        rig.device.set_target(round % 2 * PAGE_SIZE);
    }
    rig.device.set_target(PAGE_SIZE);
    let mut bytes = [0; 4];
    rig.device.read_config(0, &mut bytes);
    assert_eq!(u32::from_le_bytes(bytes), 1);
    assert_eq!(
        told.load(Ordering::Relaxed),
        9_999,
        "a target that stays is not told"
    );
}
