//! Checks of the balloon's numbers; `virtio-bindings` knows only its device id.
//!
//! One rule: layouts are spelled out as the specification lists them, and the numbers are compared
//! with the kernel's header where the machine that builds has it.

extern crate std;

use core::mem::offset_of;

use std::string::String;
use std::vec::Vec;

use crate::balloon::CONFIG_ACTUAL_OFFSET;
use crate::balloon::CONFIG_HINT_COMMAND_OFFSET;
use crate::balloon::CONFIG_NUM_PAGES_OFFSET;
use crate::balloon::CONFIG_POISON_OFFSET;
use crate::balloon::Config;
use crate::balloon::PFN_SHIFT;
use crate::balloon::Stat;
use crate::balloon::feature;
use crate::balloon::hint_command;
use crate::balloon::queue;
use crate::balloon::queue::Role;
use crate::balloon::stat;

/// The kernel's names of our numbers. The tags after `HTLB_PGFAIL` are newer than many headers.
const KERNEL: [(&str, u64); 25] = [
    ("F_MUST_TELL_HOST", feature::MUST_TELL_HOST.ilog2() as u64),
    ("F_STATS_VQ", feature::STATS_VQ.ilog2() as u64),
    ("F_DEFLATE_ON_OOM", feature::DEFLATE_ON_OOM.ilog2() as u64),
    ("F_FREE_PAGE_HINT", feature::FREE_PAGE_HINT.ilog2() as u64),
    ("F_PAGE_POISON", feature::PAGE_POISON.ilog2() as u64),
    ("F_REPORTING", feature::PAGE_REPORTING.ilog2() as u64),
    ("PFN_SHIFT", PFN_SHIFT as u64),
    ("CMD_ID_STOP", hint_command::STOP as u64),
    ("CMD_ID_DONE", hint_command::DONE as u64),
    ("S_SWAP_IN", stat::SWAP_IN as u64),
    ("S_SWAP_OUT", stat::SWAP_OUT as u64),
    ("S_MAJFLT", stat::MAJFLT as u64),
    ("S_MINFLT", stat::MINFLT as u64),
    ("S_MEMFREE", stat::MEMFREE as u64),
    ("S_MEMTOT", stat::MEMTOT as u64),
    ("S_AVAIL", stat::AVAIL as u64),
    ("S_CACHES", stat::CACHES as u64),
    ("S_HTLB_PGALLOC", stat::HTLB_PGALLOC as u64),
    ("S_HTLB_PGFAIL", stat::HTLB_PGFAIL as u64),
    ("S_OOM_KILL", stat::OOM_KILL as u64),
    ("S_ALLOC_STALL", stat::ALLOC_STALL as u64),
    ("S_ASYNC_SCAN", stat::ASYNC_SCAN as u64),
    ("S_DIRECT_SCAN", stat::DIRECT_SCAN as u64),
    ("S_ASYNC_RECLAIM", stat::ASYNC_RECLAIM as u64),
    ("S_DIRECT_RECLAIM", stat::DIRECT_RECLAIM as u64),
];

#[test]
fn numbers_are_those_of_the_kernels_header_where_there_is_one() {
    let header = std::fs::read_to_string("/usr/include/linux/virtio_balloon.h");
    let header = header.unwrap_or_default();
    for (name, value) in KERNEL {
        let mut define = String::from("VIRTIO_BALLOON_");
        define.push_str(name);
        for line in header.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first() == Some(&"#define") && words.get(1) == Some(&define.as_str()) {
                let theirs = words.get(2).and_then(|word| word.parse().ok());
                assert_eq!(theirs, Some(value), "{name}");
            }
        }
    }
}

#[test]
fn configuration_and_statistics_have_the_layout_of_the_specification() {
    assert_eq!(size_of::<Config>(), 16);
    assert_eq!(CONFIG_NUM_PAGES_OFFSET, offset_of!(Config, num_pages));
    assert_eq!(CONFIG_ACTUAL_OFFSET, offset_of!(Config, actual));
    assert_eq!(
        CONFIG_HINT_COMMAND_OFFSET,
        offset_of!(Config, free_page_hint_cmd_id)
    );
    assert_eq!(CONFIG_POISON_OFFSET, offset_of!(Config, poison_val));
    assert_eq!(size_of::<Stat>(), 10, "packed");
    assert_eq!(offset_of!(Stat, value), 2, "packed");
}

#[test]
fn tags_run_from_zero_without_gaps() {
    let tags = KERNEL.iter().filter(|(name, _)| name.starts_with("S_"));
    assert!(tags.clone().map(|(_, tag)| *tag).eq(0..16));
    assert_eq!(tags.count(), stat::COUNT);
}

#[test]
fn queues_are_numbered_without_gaps_by_the_negotiated_features() {
    let every = feature::STATS_VQ | feature::FREE_PAGE_HINT | feature::PAGE_REPORTING;
    assert_eq!(queue::index(Role::Reporting, every), Some(4));
    assert_eq!(queue::count(every), queue::MAX);
    assert_eq!(
        queue::index(Role::Reporting, feature::PAGE_REPORTING),
        Some(2)
    );
    let two = feature::STATS_VQ | feature::PAGE_REPORTING;
    assert_eq!(queue::index(Role::Reporting, two), Some(3));
    assert_eq!(queue::role(3, two), Some(Role::Reporting));
    assert_eq!(queue::index(Role::FreePage, two), None);
    assert_eq!(queue::role(4, two), None);
    assert_eq!(queue::count(0), 2);
    for (role, index) in queue::roles(every).zip(0..) {
        assert_eq!(queue::number(role), index, "all there: no gaps");
    }
    for features in 0..64 {
        for (role, index) in queue::roles(features).zip(0..) {
            assert_eq!(queue::index(role, features), Some(index));
            assert_eq!(queue::role(index, features), Some(role));
        }
    }
}
