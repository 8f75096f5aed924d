//! Pages really leave the host, and only those. One rule: every figure is what the kernel says of the file
//! (`st_blocks`), not what a call answered.

use crate::DirtyLog;
use crate::Error;
use crate::GuestMemory;
use crate::HostPage;
use crate::RegionSpec;
use crate::Released;
use crate::tests::HugePages;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;
const USER: u64 = 0x7000_0000_0000;

fn file(size: u64, flags: MFdFlags) -> OwnedFd {
    let fd = memfd_create("test", MFdFlags::MFD_CLOEXEC | flags).unwrap();
    nix::unistd::ftruncate(&fd, size.cast_signed()).unwrap();
    fd
}

fn memfd(size: u64) -> OwnedFd {
    file(size, MFdFlags::MFD_ALLOW_SEALING)
}

fn spec(guest_addr: u64, size: u64, mmap_offset: u64) -> RegionSpec {
    RegionSpec {
        guest_addr,
        size,
        user_addr: USER + guest_addr,
        mmap_offset,
    }
}

fn fill(memory: &GuestMemory, addr: u64, len: u64) {
    for page in (addr..addr + len).step_by(PAGE as usize) {
        memory.write(page, &(page | 1).to_le_bytes()).unwrap();
    }
}

/// Whether the page still has what `fill` wrote.
fn kept(memory: &GuestMemory, page: u64) -> bool {
    let mut bytes = [0; 8];
    memory.read(page, &mut bytes).unwrap();
    let ours = (page | 1).to_le_bytes();
    assert!(bytes == ours || bytes == [0; 8]);
    bytes == ours
}

fn released(bytes: u64, partial: u64, refused: u64, calls: u64) -> Released {
    Released {
        bytes,
        partial,
        refused,
        calls,
    }
}

#[test]
fn host_memory_of_a_memfd_really_falls() {
    // REGRESSIONS row 52: dropping a process's view of shared memory frees nothing.
    let memory = GuestMemory::new(vec![(spec(PAGE, 64 * PAGE, 0), memfd(64 * PAGE))]).unwrap();
    fill(&memory, PAGE, 64 * PAGE);
    assert_eq!(memory.resident(), 64 * PAGE);
    assert_eq!(
        memory.release(9 * PAGE, 16 * PAGE).unwrap(),
        released(16 * PAGE, 0, 0, 1)
    );
    assert_eq!(memory.resident(), 48 * PAGE);
    for page in 1..=64 {
        assert_eq!(
            kept(&memory, page * PAGE),
            !(9..25).contains(&page),
            "page {page}"
        );
    }
    // Reading a hole of a shared file brings its page back; so does reserving it.
    assert_eq!(
        memory.release(9 * PAGE, 16 * PAGE).unwrap().bytes,
        16 * PAGE
    );
    assert_eq!(memory.resident(), 48 * PAGE);
    assert_eq!(memory.reserve(9 * PAGE, 16 * PAGE).unwrap(), 16 * PAGE);
    assert_eq!(memory.resident(), 64 * PAGE);
}

#[test]
fn parts_of_pages_stay() {
    let memory = GuestMemory::new(vec![(spec(0, 8 * PAGE, 0), memfd(8 * PAGE))]).unwrap();
    fill(&memory, 0, 8 * PAGE);
    let done = memory.release(PAGE - 1, 2 * PAGE + 2).unwrap();
    assert_eq!(done, released(2 * PAGE, 2, 0, 1));
    assert_eq!(
        memory.release(5 * PAGE + 1, PAGE).unwrap(),
        released(0, PAGE, 0, 0)
    );
    assert_eq!(memory.release(5 * PAGE, 0).unwrap(), Released::default());
    assert_eq!(memory.resident(), 6 * PAGE);
    assert!(kept(&memory, 0) && kept(&memory, 3 * PAGE) && kept(&memory, 5 * PAGE));
}

#[test]
fn a_range_over_regions_is_split_and_one_with_a_hole_refused() {
    // The first two regions are neighbours in the guest and far from each other in one file.
    let shared = memfd(64 * PAGE);
    let second = shared.try_clone().unwrap();
    let memory = GuestMemory::new(vec![
        (spec(0, 4 * PAGE, 32 * PAGE), shared),
        (spec(4 * PAGE, 4 * PAGE, 8 * PAGE), second),
        (spec(9 * PAGE, PAGE, 0), memfd(PAGE)),
    ])
    .unwrap();
    fill(&memory, 0, 8 * PAGE);
    fill(&memory, 9 * PAGE, PAGE);
    assert_eq!(memory.resident(), 9 * PAGE, "the shared file counts once");
    assert!(matches!(
        memory.release(7 * PAGE, 3 * PAGE),
        Err(Error::Hole { .. })
    ));
    assert!(matches!(
        memory.release(u64::MAX - PAGE, PAGE),
        Err(Error::Hole { .. })
    ));
    assert_eq!(
        memory.resident(),
        9 * PAGE,
        "nothing was released by halves"
    );
    assert_eq!(
        memory.release(3 * PAGE, 2 * PAGE).unwrap(),
        released(2 * PAGE, 0, 0, 2)
    );
    assert!(kept(&memory, 2 * PAGE) && kept(&memory, 5 * PAGE));
    assert!(!kept(&memory, 3 * PAGE) && !kept(&memory, 4 * PAGE));
}

#[test]
fn released_pages_are_dirty() {
    let log = memfd(PAGE);
    let log = Arc::new(DirtyLog::new(log.as_fd(), 0, PAGE).unwrap());
    let memory = GuestMemory::new(vec![(spec(PAGE, 8 * PAGE, 0), memfd(8 * PAGE))]).unwrap();
    let memory = memory.with_log(Some(Arc::clone(&log))).unwrap();
    memory.release(3 * PAGE - 8, 2 * PAGE + 16).unwrap();
    let marked: Vec<u64> = (0..10).filter(|page| log.is_marked(page * PAGE)).collect();
    assert_eq!(marked, [3, 4]);
}

#[test]
fn seals_against_resizing_do_no_harm_and_against_writing_are_told() {
    let fd = memfd(8 * PAGE);
    let again = fd.try_clone().unwrap();
    let memory = GuestMemory::new(vec![(spec(0, 8 * PAGE, 0), fd)]).unwrap();
    fill(&memory, 0, 8 * PAGE);
    let seal = |seals| fcntl(&again, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    seal(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
    assert_eq!(memory.release(0, PAGE).unwrap().bytes, PAGE);
    // Linux 5.1, F_SEAL_FUTURE_WRITE: the mapping stays writable, holes are refused.
    seal(SealFlag::from_bits_retain(0x10));
    assert_eq!(memory.release(PAGE, PAGE).unwrap(), released(0, 0, PAGE, 1));
    assert_eq!(
        memory.release(PAGE, PAGE).unwrap(),
        released(0, 0, PAGE, 0),
        "and not tried again"
    );
    assert!(kept(&memory, PAGE));
    assert_eq!(memory.resident(), 7 * PAGE);
}

#[test]
fn a_file_on_disk_gives_its_blocks_back() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 * PAGE).unwrap();
    let memory = match GuestMemory::new(vec![(spec(0, 64 * PAGE, 0), OwnedFd::from(file))]) {
        Err(Error::ForeignPages) => {
            println!("SKIPS ITSELF release: temporary files are not on a disk's file system");
            return;
        }
        memory => memory.unwrap(),
    };
    fill(&memory, 0, 64 * PAGE);
    let done = memory.release(0, 32 * PAGE).unwrap();
    assert_eq!(done.bytes + done.refused, 32 * PAGE);
    if done.refused != 0 {
        println!("SKIPS ITSELF release: the file system of temporary files has no holes");
        return;
    }
    assert!(!kept(&memory, 0) && kept(&memory, 32 * PAGE));
}

#[test]
fn only_whole_huge_pages_go() {
    // REGRESSIONS row 51.
    let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let Some(_pool) = HugePages::set_aside(4) else {
        println!("SKIPS ITSELF release: no huge pages are set aside, and only root may");
        return;
    };
    let Ok(fd) = memfd_create("huge", flags | MFdFlags::MFD_CLOEXEC) else {
        println!("SKIPS ITSELF release: no hugetlbfs here");
        return;
    };
    nix::unistd::ftruncate(&fd, (4 * HUGE).cast_signed()).unwrap();
    // The region begins and ends inside huge pages.
    let size = 3 * HUGE;
    let region = spec(HUGE, size, HUGE / 2);
    let memory = GuestMemory::new(vec![(region, fd)]).unwrap();
    assert_eq!(memory.host_page(HUGE), None, "its first part is not ours");
    let inner = HostPage {
        start: HUGE + HUGE / 2,
        size: HUGE,
    };
    assert_eq!(memory.host_page(inner.start + HUGE - 1), Some(inner));
    assert_eq!(memory.reserve(inner.start, 2 * HUGE).unwrap(), 2 * HUGE);
    fill(&memory, inner.start, 2 * HUGE);
    assert_eq!(memory.resident(), 2 * HUGE);
    let half = memory.release(inner.start, HUGE / 2).unwrap();
    assert_eq!(half, released(0, HUGE / 2, 0, 0));
    let more = memory.release(inner.start, HUGE + HUGE / 2).unwrap();
    assert_eq!(more, released(HUGE, HUGE / 2, 0, 1));
    assert_eq!(memory.resident(), HUGE);
    assert!(kept(&memory, inner.start + HUGE));
}

#[test]
fn host_pages_of_ordinary_memory_are_single() {
    let memory = GuestMemory::new(vec![(spec(3 * PAGE, PAGE, 0), memfd(PAGE))]).unwrap();
    let page = HostPage {
        start: 3 * PAGE,
        size: PAGE,
    };
    assert_eq!(memory.host_page(3 * PAGE + 5), Some(page));
    assert_eq!(memory.host_page(4 * PAGE), None);
    assert_eq!(memory.size(), PAGE);
}
