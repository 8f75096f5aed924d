//! Tests of the pure parts: statistics messages and the choice of features. The whole driver meets devices in `driver-fakes` and
//! `loopback`.

use virtio_spec::balloon::feature::*;
use virtio_spec::balloon::stat;

use crate::Options;
use crate::Statistics;
use crate::options::numbers;
use crate::statistics::BUFFER;

fn encode(statistics: &Statistics) -> alloc::vec::Vec<u8> {
    let mut message = [0xee; BUFFER];
    let len = statistics.encode(&mut message);
    message[..len].to_vec()
}

#[test]
fn statistics_are_ten_bytes_each_and_only_those_that_are_set() {
    let mut statistics = Statistics::default();
    statistics.set(stat::MEMFREE, 0x0102_0304_0506_0708);
    statistics.set(stat::DIRECT_RECLAIM, 1);
    statistics.set(16, 9);
    statistics.set(u16::MAX, 9);
    let bytes = encode(&statistics);
    assert_eq!(bytes[..10], [4, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[10..], [15, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(statistics.get(stat::MEMFREE), Some(0x0102_0304_0506_0708));
    assert_eq!(statistics.get(stat::MEMTOT), None);
}

#[test]
fn all_statistics_fit_and_none_is_a_tag_that_nobody_knows() {
    let mut statistics = Statistics::default();
    assert_eq!(encode(&statistics), [0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    (0..16).for_each(|tag| statistics.set(tag, u64::MAX));
    assert_eq!(encode(&statistics).len(), 160);
}

#[test]
fn a_refused_queue_takes_the_later_ones_with_it() {
    let options = |features| Options {
        features,
        ..Options::default()
    };
    let offered = STATS_VQ | FREE_PAGE_HINT | PAGE_REPORTING;
    let queues = |options: Options, offered| options.choose(offered) & offered;
    assert_eq!(queues(Options::default(), offered), offered);
    assert_eq!(queues(options(offered & !STATS_VQ), offered), 0);
    assert_eq!(
        queues(options(offered & !FREE_PAGE_HINT), offered),
        STATS_VQ
    );
    // What is not offered takes no number on either side.
    assert_eq!(
        queues(options(offered & !FREE_PAGE_HINT), PAGE_REPORTING),
        PAGE_REPORTING
    );
}

#[test]
fn a_guest_that_relies_on_poison_reports_only_to_a_device_that_keeps_it() {
    let offered = STATS_VQ | PAGE_REPORTING | PAGE_POISON;
    let poisoned = Options {
        poison: Some(0xaaaa_aaaa),
        ..Options::default()
    };
    assert_eq!(poisoned.choose(offered) & offered, offered);
    assert_eq!(poisoned.choose(offered & !PAGE_POISON) & PAGE_REPORTING, 0);
    assert_eq!(Options::default().choose(offered) & PAGE_POISON, 0);
    assert_ne!(Options::default().choose(offered) & PAGE_REPORTING, 0);
}

#[test]
fn batches_are_whole_pages_of_the_guest() {
    let batch = |batch_pages, unit_pages| {
        Options {
            batch_pages,
            unit_pages,
            ..Options::default()
        }
        .batch()
    };
    assert_eq!(batch(256, 1), 256);
    assert_eq!(batch(256, 16), 256);
    assert_eq!(batch(250, 16), 240);
    assert_eq!(batch(0, 0), 1);
    assert_eq!(batch(4, 16), 16);
}

#[test]
fn queues_are_numbered_as_the_device_has_them() {
    let indices = |features, count| -> alloc::vec::Vec<u16> {
        numbers(features, count).map(|(_, index)| index).collect()
    };
    let all = STATS_VQ | FREE_PAGE_HINT | PAGE_REPORTING;
    assert_eq!(indices(all, 5), [0, 1, 2, 3, 4]);
    assert_eq!(indices(STATS_VQ | PAGE_REPORTING, 4), [0, 1, 2, 3]);
    assert_eq!(indices(STATS_VQ | PAGE_REPORTING, 5), [0, 1, 2, 4]);
    assert_eq!(indices(PAGE_REPORTING, 3), [0, 1, 2]);
    assert_eq!(indices(PAGE_REPORTING, 4), [0, 1, 2]);
    assert_eq!(indices(PAGE_REPORTING, u16::MAX), [0, 1, 4]);
    assert_eq!(indices(0, 2), [0, 1]);
}
