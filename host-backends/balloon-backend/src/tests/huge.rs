//! Guest memory in huge pages of the host. One rule: a huge page goes when the guest gave up all of it, and not earlier.

use std::sync::Mutex;
use std::sync::MutexGuard;

use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use host_os::sync::lock;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature;

use super::rig::*;
use crate::BalloonDevice;
use crate::BalloonSpec;

const HUGE: u64 = 2 << 20;
const PER_HUGE: u32 = (HUGE / PAGE_SIZE) as u32;
const FIRST: u32 = (HIGH / PAGE_SIZE) as u32;

/// Some huge pages more than there were, until dropped; one holder at a time.
struct Pool(
    u64,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Pool {
    const SIZE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    fn number(path: &str) -> Option<u64> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn set_aside(count: u64) -> Option<Self> {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = lock(&ONE);
        let pool = Self(Self::number(Self::SIZE)?, alone);
        // Refused to all but root; what is free already will do as well.
        let _ = std::fs::write(Self::SIZE, (pool.0 + count).to_string());
        (Self::number(Self::FREE)? >= count).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::SIZE, self.0.to_string());
    }
}

/// Ordinary memory for rings and messages, and four huge pages at `HIGH`.
fn rig(features: u64) -> Option<(Pool, Rig)> {
    let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB | MFdFlags::MFD_CLOEXEC;
    let fd = memfd_create(c"huge", flags).ok()?;
    let size = 4 * HUGE;
    nix::unistd::ftruncate(&fd, i64::try_from(size).ok()?).ok()?;
    let spec = RegionSpec {
        guest_addr: HIGH,
        size,
        user_addr: 0x7f00_0000_0000,
        mmap_offset: 0,
    };
    let memory = GuestMemory::new(vec![region(LOW), (spec, fd)]).ok()?;
    let Some(pool) = Pool::set_aside(8) else {
        println!("SKIPS ITSELF huge: no huge pages are set aside, and only root may");
        return None;
    };
    let device = BalloonDevice::new(BalloonSpec {
        packed: false,
        ..everything()
    })
    .expect("a balloon");
    Some((pool, Rig::on(device, memory, features)))
}

#[test]
fn half_a_huge_page_stays_until_its_other_half_comes() {
    // REGRESSIONS row 51.
    let Some((_pool, mut rig)) = rig(u64::MAX) else {
        return;
    };
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + PER_HUGE / 2);
    assert_eq!(rig.resident(), before);
    assert_eq!(rig.metrics().partial_bytes, HUGE / 2);
    assert!(rig.kept(FIRST.into()), "what cannot go is not wiped either");
    // The other half page by page, in no order.
    for at in 0..PER_HUGE / 2 {
        assert_eq!(rig.resident(), before);
        rig.pages(INFLATE, [FIRST + PER_HUGE / 2 + (at * 37) % (PER_HUGE / 2)]);
    }
    assert_eq!(before - rig.resident(), HUGE);
    assert_eq!(rig.metrics().released_bytes, HUGE);
}

#[test]
fn neighbouring_huge_pages_go_in_one_call() {
    let Some((_pool, mut rig)) = rig(u64::MAX) else {
        return;
    };
    let before = rig.resident();
    rig.pages(INFLATE, FIRST + 1..FIRST + 3 * PER_HUGE);
    assert_eq!(before - rig.resident(), 2 * HUGE);
    assert_eq!(rig.metrics().release_calls, 1);
    rig.pages(INFLATE, [FIRST]);
    assert_eq!(before - rig.resident(), 3 * HUGE);
}

#[test]
fn a_page_that_left_the_balloon_keeps_its_huge_page_and_takes_it_back_first() {
    let Some((_pool, mut rig)) = rig(u64::MAX) else {
        return;
    };
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + PER_HUGE);
    assert_eq!(before - rig.resident(), HUGE);
    rig.pages(DEFLATE, [FIRST + 7]);
    assert_eq!(
        rig.resident(),
        before,
        "the guest's next access must not lack a page"
    );
    rig.pages(INFLATE, [FIRST + 7]);
    assert_eq!(before - rig.resident(), HUGE);
}

#[test]
fn without_a_promise_to_tell_a_huge_page_goes_only_as_one_message() {
    let Some((_pool, mut rig)) = rig(!feature::MUST_TELL_HOST) else {
        return;
    };
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + PER_HUGE / 2);
    // By now the driver may use the first half again; the device learns of that later.
    rig.pages(INFLATE, FIRST + PER_HUGE / 2..FIRST + PER_HUGE);
    assert_eq!(rig.resident(), before);
    assert!(rig.kept(FIRST.into()));
    rig.pages(INFLATE, FIRST + PER_HUGE..FIRST + 2 * PER_HUGE);
    assert_eq!(before - rig.resident(), HUGE);
}

#[test]
fn a_new_driver_inherits_no_half_given_huge_page() {
    let Some((_pool, mut rig)) = rig(u64::MAX) else {
        return;
    };
    let before = rig.resident();
    rig.pages(INFLATE, FIRST..FIRST + PER_HUGE / 2);
    // The guest boots anew and uses those pages.
    rig.boot(u64::MAX);
    rig.pages(INFLATE, FIRST + PER_HUGE / 2..FIRST + PER_HUGE);
    assert_eq!(rig.resident(), before);
    assert!(rig.kept(FIRST.into()));
}
