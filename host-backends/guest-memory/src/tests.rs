//! Translation, refusals, the log and the guard. One rule: hostile geometry is refused before anything is mapped.

use crate::Access;
use crate::DirtyLog;
use crate::Error;
use crate::GuestMemory;
use crate::IoVecs;
use crate::LOG_PAGE;
use crate::Mapping;
use crate::RegionSpec;
use crate::SharedMemory;
use host_os::sync::lock;
use nix::sys::memfd::MFdFlags;
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use virtqueue::Segment;

const PAGE: u64 = 4096;

fn memfd(size: u64) -> OwnedFd {
    host_os::memfd::create("test", size).unwrap()
}

fn spec(guest_addr: u64, pages: u64, user_addr: u64) -> RegionSpec {
    RegionSpec {
        guest_addr,
        size: pages * PAGE,
        user_addr,
        mmap_offset: 0,
    }
}

fn region(guest_page: u64, pages: u64) -> (RegionSpec, OwnedFd) {
    let start = guest_page * PAGE;
    (spec(start, pages, 0x7000_0000 + start), memfd(pages * PAGE))
}

/// Pages 0 and 1 adjoin, page 2 is a hole, page 3 stands alone.
fn memory() -> GuestMemory {
    GuestMemory::new(vec![region(3, 1), region(0, 1), region(1, 1)]).unwrap()
}

#[test]
fn reads_and_writes_cross_region_borders_and_stop_at_holes() {
    let memory = memory();
    memory.write(PAGE - 3, b"abcdef").unwrap();
    let mut back = [0; 6];
    memory.read(PAGE - 3, &mut back).unwrap();
    assert_eq!(&back, b"abcdef");
    assert!(memory.write(2 * PAGE - 1, b"xy").is_err());
    memory.read(2 * PAGE - 1, &mut back[..1]).unwrap();
    assert_eq!(back[0], 0, "nothing was half written");
    assert!(memory.read(4 * PAGE, &mut back).is_err());
    assert!(memory.read(u64::MAX, &mut back).is_err());
    assert!(memory.read(0, &mut []).is_ok());
}

#[test]
fn contiguous_spans_never_leave_their_region() {
    // REGRESSIONS rows 23 and 24: neighbours in guest memory are not neighbours here.
    let memory = memory();
    assert!(memory.host_slice(0, PAGE as usize).is_some());
    assert!(memory.host_slice(1, PAGE as usize).is_none());
    assert!(memory.host_slice(PAGE - 1, 2).is_none());
    assert!(memory.host_slice(2 * PAGE, 1).is_none());
    assert!(memory.host_slice(u64::MAX, usize::MAX).is_none());
    assert!(memory.user_slice(0x7000_0000 + 3 * PAGE, 16).is_some());
    assert!(memory.user_slice(0x7000_0000 + 4 * PAGE, 1).is_none());
    assert_eq!(memory.user_to_guest(0x7000_0000 + PAGE + 5), Some(PAGE + 5));
    assert_eq!(memory.user_to_guest(5), None);
}

#[test]
fn scatter_lists_split_at_borders_and_keep_their_total() {
    let memory = memory();
    let mut vecs = IoVecs::new();
    memory
        .iovecs(
            &[Segment {
                addr: PAGE - 10,
                len: 20,
            }],
            &mut vecs,
        )
        .unwrap();
    assert_eq!(vecs.total_len(), 20);
    assert!(vecs.as_slice().iter().map(|v| v.iov_len).sum::<usize>() == 20);
    vecs.advance(15);
    assert_eq!(vecs.total_len(), 5);
    vecs.advance(100);
    assert!(vecs.is_empty());
    assert!(
        memory
            .iovecs(
                &[Segment {
                    addr: 2 * PAGE - 1,
                    len: 2
                }],
                &mut vecs
            )
            .is_err()
    );
    assert!(
        memory
            .iovecs(
                &[Segment {
                    addr: u64::MAX,
                    len: u32::MAX
                }],
                &mut vecs
            )
            .is_err()
    );
}

#[test]
fn impossible_regions_are_refused() {
    let refused = |spec: RegionSpec| GuestMemory::new(vec![(spec, memfd(PAGE))]).unwrap_err();
    let good = spec(PAGE, 1, PAGE);
    assert!(matches!(
        refused(RegionSpec { size: 0, ..good }),
        Error::EmptyRegion(_)
    ));
    for bad in [
        RegionSpec {
            guest_addr: 1,
            ..good
        },
        RegionSpec {
            user_addr: 1,
            ..good
        },
        RegionSpec {
            mmap_offset: 1,
            ..good
        },
    ] {
        assert!(matches!(refused(bad), Error::Unaligned(_)));
    }
    let top = u64::MAX - (PAGE - 1);
    for bad in [
        RegionSpec {
            guest_addr: top,
            ..good
        },
        RegionSpec {
            user_addr: top,
            ..good
        },
        RegionSpec {
            mmap_offset: top,
            ..good
        },
        RegionSpec {
            size: u64::MAX,
            ..good
        },
        RegionSpec {
            size: 1 << 63,
            ..good
        },
    ] {
        assert!(matches!(refused(bad), Error::RegionOverflow(_)), "{bad:x?}");
    }
    assert!(matches!(
        refused(spec(PAGE, 2, PAGE)),
        Error::FileTooSmall { .. }
    ));
    let beyond = RegionSpec {
        mmap_offset: PAGE,
        ..good
    };
    assert!(matches!(refused(beyond), Error::FileTooSmall { .. }));
}

#[test]
fn overlapping_regions_are_refused() {
    for other in [
        spec(0, 2, 0x9000_0000),
        spec(PAGE, 1, 0x9000_0000),
        spec(0x100_0000, 1, PAGE),
    ] {
        let regions = vec![(spec(0, 2, 0), memfd(2 * PAGE)), (other, memfd(2 * PAGE))];
        assert!(matches!(GuestMemory::new(regions), Err(Error::Overlap(_))));
    }
    let touching = vec![
        (spec(0, 2, 0), memfd(2 * PAGE)),
        (spec(2 * PAGE, 1, 2 * PAGE), memfd(PAGE)),
    ];
    assert!(GuestMemory::new(touching).is_ok());
}

#[test]
fn descriptors_that_are_no_files_are_refused() {
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let folder = std::fs::File::open("/").unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let zero = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/zero")
        .unwrap();
    let event = host_os::EventFd::new().unwrap();
    let fds: [OwnedFd; 6] = [
        pipe,
        socket.into(),
        folder.into(),
        null.into(),
        zero.into(),
        event.into(),
    ];
    for fd in fds {
        let refused = GuestMemory::new(vec![(spec(0, 1, 0), fd)]);
        assert!(matches!(refused, Err(Error::NotMappable)));
    }
    let file = memfd(PAGE);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let read_only = std::fs::File::open(path).unwrap();
    let refused = GuestMemory::new(vec![(spec(0, 1, 0), read_only.into())]);
    assert!(matches!(refused, Err(Error::System { call: "mmap", .. })));
}

#[test]
fn files_whose_pages_another_may_hold_back_are_refused() {
    // A regular file of a file system that is neither memory nor a disk's; FUSE differs from it by its number only.
    let file = std::fs::File::open("/proc/self/status").unwrap();
    let refused = GuestMemory::new(vec![(spec(0, 1, 0), file.try_clone().unwrap().into())]);
    assert!(matches!(refused, Err(Error::ForeignPages)));
    let refused = SharedMemory::from_fd(file.as_fd(), 0, PAGE);
    assert!(matches!(refused, Err(Error::ForeignPages)));
}

#[test]
fn regions_come_and_go_while_the_old_snapshot_stays_whole() {
    let old = memory();
    old.write(3 * PAGE, b"kept").unwrap();
    let (extra, fd) = region(8, 2);
    let more = old.with_region(extra, fd).unwrap();
    more.write(9 * PAGE, b"new").unwrap();
    assert!(old.read(9 * PAGE, &mut [0; 3]).is_err());
    let less = more
        .without_region(&spec(3 * PAGE, 1, 0x7000_0000 + 3 * PAGE))
        .unwrap();
    assert!(less.read(3 * PAGE, &mut [0]).is_err());
    let mut back = [0; 4];
    old.read(3 * PAGE, &mut back).unwrap();
    assert_eq!(&back, b"kept");
    assert!(matches!(
        more.without_region(&spec(3 * PAGE, 1, 0)),
        Err(Error::NoSuchRegion(_))
    ));
    let (again, fd) = region(8, 1);
    assert!(matches!(
        more.with_region(again, fd),
        Err(Error::Overlap(_))
    ));
    assert_eq!(more.regions().len(), 4);
}

#[test]
fn more_regions_than_slots_are_refused() {
    let shared = memfd(PAGE);
    let mut memory = GuestMemory::default();
    for page in 0..GuestMemory::MAX_REGIONS as u64 {
        let spec = spec(page * PAGE, 1, page * PAGE);
        memory = memory
            .with_region(spec, shared.try_clone().unwrap())
            .unwrap();
    }
    let next = GuestMemory::MAX_REGIONS as u64 * PAGE;
    let refused = memory.with_region(spec(next, 1, next), shared);
    assert!(matches!(refused, Err(Error::TooManyRegions(_))));
}

#[test]
fn truncated_memory_poisons_its_mapping_and_nothing_else() {
    let fd = memfd(4 * PAGE);
    let victim = GuestMemory::new(vec![(spec(0, 4, 0), fd.try_clone().unwrap())]).unwrap();
    let other = memory();
    victim.write(3 * PAGE, b"there").unwrap();
    nix::unistd::ftruncate(&fd, PAGE.cast_signed()).unwrap();
    assert!(!victim.poisoned());
    let mut back = [1; 5];
    victim.read(3 * PAGE, &mut back).unwrap();
    assert_eq!(back, [0; 5], "a zero page took the place");
    assert!(victim.poisoned());
    victim.write(2 * PAGE, b"also lost").unwrap();
    victim.write(0, b"still backed").unwrap();
    assert!(!other.poisoned());
    drop(victim);
    let fresh = memory();
    assert!(!fresh.poisoned(), "a slot that is used again starts clean");
}

#[test]
fn truncation_is_survived_by_many_threads_at_once() {
    let fd = memfd(64 * PAGE);
    let memory = GuestMemory::new(vec![(spec(0, 64, 0), fd.try_clone().unwrap())]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..2000 {
                    memory
                        .write((round * 7 + thread) % 64 * PAGE, &[1; 64])
                        .unwrap();
                }
            });
        }
        nix::unistd::ftruncate(&fd, 0).unwrap();
    });
    memory.write(0, &[1]).unwrap();
    assert!(memory.poisoned());
}

#[test]
fn log_marks_every_touched_page_and_no_other() {
    let bits = memfd(PAGE);
    let log = DirtyLog::new(bits.as_fd(), 0, 64).unwrap();
    log.mark(10 * LOG_PAGE - 1, 2);
    log.mark(20 * LOG_PAGE, 15 * LOG_PAGE);
    log.mark(50 * LOG_PAGE, 0);
    let marked: Vec<u64> = (0..64)
        .filter(|page| log.is_marked(page * LOG_PAGE))
        .collect();
    let expected: Vec<u64> = [9, 10].into_iter().chain(20..35).collect();
    assert_eq!(marked, expected);
}

#[test]
fn log_ignores_what_it_does_not_cover() {
    // REGRESSIONS rows 29 and 30.
    let bits = memfd(2 * PAGE);
    let log = DirtyLog::new(bits.as_fd(), 16, 8).unwrap();
    assert_eq!(log.covered(), 64 * LOG_PAGE);
    for (addr, len) in [
        (64 * LOG_PAGE, 1),
        (u64::MAX, u64::MAX),
        (u64::MAX - 1, 1),
        (0, u64::MAX),
    ] {
        log.mark(addr, len);
    }
    let file = SharedMemory::from_fd(bits.as_fd(), 0, PAGE).unwrap();
    assert_eq!(file.load_u64(8, Ordering::Relaxed), 0, "nothing before");
    assert_eq!(file.load_u64(16, Ordering::Relaxed), u64::MAX);
    assert_eq!(file.load_u64(24, Ordering::Relaxed), 0, "nothing behind");
    for (offset, size) in [
        (u64::MAX, 8),
        (8, u64::MAX),
        (2 * PAGE, 1),
        (0, 0),
        (0, 2 * PAGE + 1),
    ] {
        assert!(
            DirtyLog::new(bits.as_fd(), offset, size).is_err(),
            "{offset:#x}+{size:#x}"
        );
    }
}

#[test]
fn log_smaller_than_memory_is_refused_also_for_regions_added_later() {
    let bits = memfd(PAGE);
    let log = |bytes| Some(Arc::new(DirtyLog::new(bits.as_fd(), 0, bytes).unwrap()));
    let (high, fd) = region(8, 1);
    let memory = memory().with_region(high, fd).unwrap();
    assert!(matches!(
        memory.with_log(log(1)),
        Err(Error::LogTooSmall { .. })
    ));
    let logged = memory.with_log(log(2)).unwrap();
    let (next, fd) = region(9, 1);
    let logged = logged.with_region(next, fd).unwrap();
    logged.write(9 * PAGE, &[1]).unwrap();
    let (far, fd) = region(16, 1);
    assert!(matches!(
        logged.with_region(far, fd),
        Err(Error::LogTooSmall { .. })
    ));
    let check = DirtyLog::new(bits.as_fd(), 0, 2).unwrap();
    assert!(
        check.is_marked(9 * PAGE),
        "the region added later is logged too"
    );
}

#[test]
fn shared_fields_out_of_bounds_or_unaligned_are_inert() {
    let (memory, _fd) = SharedMemory::create("fields", 64).unwrap();
    memory.store_u32(60, 7, Ordering::Relaxed);
    assert_eq!(memory.load_u32(60, Ordering::Relaxed), 7);
    for offset in [61, 62, 64, usize::MAX] {
        memory.store_u32(offset, u32::MAX, Ordering::Relaxed);
        assert_eq!(memory.load_u32(offset, Ordering::Relaxed), 0);
    }
    assert_eq!(memory.load_u32(60, Ordering::Relaxed), 7);
}

#[test]
fn created_area_cannot_be_truncated_by_the_peer() {
    let (_memory, fd) = SharedMemory::create("sealed", 4096).unwrap();
    assert!(nix::unistd::ftruncate(&fd, 0).is_err());
}

#[test]
fn mapping_may_start_anywhere_in_its_file() {
    let fd = memfd(3 * PAGE);
    nix::sys::uio::pwrite(&fd, b"offset", 5000).unwrap();
    let mapping = Mapping::new(fd.as_fd(), 5000, 6, Access::Read).unwrap();
    assert_eq!(mapping.len(), 6);
    assert!(mapping.span(0, 6).is_some());
    assert!(mapping.span(1, 6).is_none());
    assert!(mapping.span(usize::MAX, 2).is_none());
}

/// How much of `mapping` this process has page table entries for, in KiB.
fn mapped_kib(mapping: &Mapping) -> u64 {
    let start = format!("{:x}-", mapping.as_ptr().as_ptr() as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn populated_pages_need_no_fault_of_their_own() {
    let fd = memfd(512 * PAGE);
    for page in 0..512 {
        nix::sys::uio::pwrite(&fd, b"here", page * 4096).unwrap();
    }
    let mapping = Mapping::new(fd.as_fd(), 0, 512 * PAGE, Access::ReadWrite).unwrap();
    assert_eq!(mapped_kib(&mapping), 0);
    mapping.populate(0, 513 * 4096);
    assert_eq!(
        mapped_kib(&mapping),
        0,
        "a range that is not inside is not touched"
    );
    mapping.populate(0, 512 * 4096);
    assert_eq!(mapped_kib(&mapping), 2048);
}

proptest! {
    #[test]
    fn spans_agree_with_a_plain_model(addr in 0..6 * PAGE, len in 0..3 * PAGE) {
        let memory = memory();
        let mapped = |at: u64| at < 2 * PAGE || (3 * PAGE..4 * PAGE).contains(&at);
        let all = (addr..addr + len).all(mapped);
        let mut total = 0;
        let result = memory.for_each_span(addr, len, |slice| total += slice.len() as u64);
        prop_assert_eq!(result.is_ok(), all);
        if all {
            prop_assert_eq!(total, len);
        }
    }
}

/// Some huge pages more than there were, until dropped; one holder at a time.
pub(crate) struct HugePages(
    String,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl HugePages {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    fn number(path: &str) -> Option<u64> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    pub(crate) fn set_aside(count: u64) -> Option<Self> {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = lock(&ONE);
        let before = Self::number(Self::POOL)?;
        let pool = Self(before.to_string(), alone);
        // Refused to all but root; what is free already will do as well.
        let _ = std::fs::write(Self::POOL, (before + count).to_string());
        (Self::number(Self::FREE)? >= count).then_some(pool)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::POOL, &self.0);
    }
}

#[test]
fn huge_pages_are_mapped_and_guarded() {
    const HUGE: u64 = 2 << 20;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let Ok(fd) = nix::sys::memfd::memfd_create("huge", flags) else {
        println!("SKIPS ITSELF huge_pages: no huge pages in this kernel");
        return;
    };
    nix::unistd::ftruncate(&fd, (2 * HUGE).cast_signed()).unwrap();
    let Some(_pool) = HugePages::set_aside(2) else {
        println!("SKIPS ITSELF huge_pages: no huge pages are set aside, and only root may");
        return;
    };
    // A region need not be a multiple of the huge page, nor start at one.
    let spec = RegionSpec {
        guest_addr: 0,
        size: HUGE,
        user_addr: 0,
        mmap_offset: HUGE / 2,
    };
    let memory = GuestMemory::new(vec![(spec, fd.try_clone().unwrap())]).unwrap();
    memory.write(0, b"first").unwrap();
    memory.write(HUGE - 4, b"last").unwrap();
    nix::unistd::ftruncate(&fd, HUGE.cast_signed()).unwrap();
    let mut back = [1; 4];
    memory.read(HUGE - 4, &mut back).unwrap();
    assert_eq!(back, [0; 4]);
    assert!(memory.poisoned());
    let mut back = [0; 5];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"first");
}
