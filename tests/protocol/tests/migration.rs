//! The dirty log (REGRESSIONS.md row 29): no page that the back-end wrote is without its bit. One rule: the oracle is
//! the memory itself, compared page by page.

use anyhow::Result;
use guest_memory::DirtyLog;
use guest_memory::GuestMemory;
use guest_memory::LOG_PAGE;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::feature;
use vhost_user_protocol::vring_flags;

/// Covers 1 TiB and some, so that memory added later is covered too.
const LOG_BYTES: u64 = 64 << 20;

struct Migration {
    frontend: Frontend,
    log: DirtyLog,
    file: OwnedFd,
}

impl Migration {
    /// Hands in a log without switching it on.
    fn prepare(mut frontend: Frontend) -> Result<Self> {
        let file = host_os::memfd::create("log", LOG_BYTES)?;
        let base = LogBase {
            size: LOG_BYTES,
            offset: 0,
        };
        frontend.send(&M::SetLogBase(base), &[file.as_fd()])?;
        let (reply, _) = frontend.reply(Request::SetLogBase)?;
        anyhow::ensure!(reply == Reply::Log(base), "{reply:?}");
        let log = DirtyLog::new(file.as_fd(), 0, LOG_BYTES)?;
        Ok(Self {
            frontend,
            log,
            file,
        })
    }

    /// Switches logging on or off as QEMU does: features, then every ring's address message.
    fn switch(&mut self, queue: &GuestQueue, on: bool) -> Result<()> {
        let bit = if on { feature::LOG_ALL } else { 0 };
        let features = queue.shape.features | feature::PROTOCOL_FEATURES | bit;
        self.frontend.must(&M::SetFeatures(features), &[])?;
        let mut address = Frontend::addresses(queue);
        if on {
            address.flags = vring_flags::LOG;
            address.log = queue.guest_areas[2];
        }
        self.frontend.must(&M::SetVringAddr(address), &[])
    }

    fn any_marked(&self) -> bool {
        let mut bits = vec![0; 8192];
        let read = nix::sys::uio::pread(&self.file, &mut bits, 0);
        read.is_ok() && bits.iter().any(|byte| *byte != 0)
    }
}

fn copy(memory: &GuestMemory, addr: u64, size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    memory.read(addr, &mut bytes)?;
    Ok(bytes)
}

/// Pages of a region that differ from `before` and have no bit, but for those that `ours` wrote.
fn misses(guest: &Guest, before: &[u8], log: &DirtyLog, ours: &[u64]) -> Result<Vec<u64>> {
    let after = copy(&guest.memory, guest.spec.guest_addr, guest.spec.size)?;
    let pages = before
        .chunks(LOG_PAGE as usize)
        .zip(after.chunks(LOG_PAGE as usize));
    let changed = pages.enumerate().filter(|(_, (old, new))| old != new);
    let addresses = changed.map(|(page, _)| guest.spec.guest_addr + page as u64 * LOG_PAGE);
    Ok(addresses
        .filter(|addr| !log.is_marked(*addr) && !ours.contains(addr))
        .collect())
}

#[test]
fn every_page_the_backend_changes_is_marked() -> Result<()> {
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let served = Served::new(1)?;
        let guest = Guest::new()?;
        let mut queue = guest.queue(0, shape)?;
        let mut frontend = served.connect()?;
        frontend.negotiate(shape.features)?;
        frontend.set_memory(&guest)?;
        let packed = shape.features & virtio_spec::feature::RING_PACKED != 0;
        frontend.start_queue(&queue, if packed { 0x8000_8000 } else { 0 })?;
        let mut migration = Migration::prepare(frontend)?;
        queue.echo(&guest, b"not yet.")?;
        assert!(!migration.any_marked(), "logging is not on yet");
        // Switched on in the middle of traffic, several times.
        for round in 0..5 {
            migration.switch(&queue, true)?;
            let before = copy(&guest.memory, guest.spec.guest_addr, guest.spec.size)?;
            let mut ours = vec![queue.guest_areas[1]];
            if !packed {
                ours.push(queue.guest_areas[0]);
            }
            for slot in 0..40 {
                let slot = (slot + round) * 2;
                ours.push(guest.buffer(slot));
                queue.add(&guest, slot, &[slot as u8 + 1; 4000])?;
                queue.publish();
                queue.wait(1)?;
            }
            assert_eq!(misses(&guest, &before, &migration.log, &ours)?, [0; 0]);
            migration.switch(&queue, false)?;
        }
        assert!(migration.log.is_marked(queue.guest_areas[2]) || packed);
        assert!(migration.log.is_marked(queue.guest_areas[0]) || !packed);
    }
    Ok(())
}

#[test]
fn memory_added_while_logging_is_logged_too() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    let mut migration = Migration::prepare(frontend)?;
    migration.switch(&queue, true)?;
    let extra = Guest::with_region(1 << 40, 1 << 41, 1 << 20)?;
    let frontend = &mut migration.frontend;
    frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
    guest.memory.write(guest.buffer(0), b"to there")?;
    let readable = [virtqueue::Segment {
        addr: guest.buffer(0),
        len: 8,
    }];
    let writable = [virtqueue::Segment {
        addr: extra.spec.guest_addr + 8192,
        len: 8,
    }];
    let added = queue.driver.add(&readable, &writable, None);
    added.map_err(|error| anyhow::anyhow!("{error}"))?;
    queue.publish();
    queue.wait(1)?;
    assert!(migration.log.is_marked(extra.spec.guest_addr + 8192));
    assert!(!migration.log.is_marked(extra.spec.guest_addr));
    // Memory beyond the log is refused while logging.
    let far = Guest::with_region(1 << 45, 1 << 46, 1 << 20)?;
    let refused = migration
        .frontend
        .ask(&M::AddMemReg(far.region()), &[far.file.as_fd()])?;
    assert_ne!(refused, 0);
    Ok(())
}

#[test]
fn used_ring_is_logged_where_the_front_end_says() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    let mut migration = Migration::prepare(frontend)?;
    migration.switch(&queue, true)?;
    let elsewhere = 1_u64 << 40;
    let mut address = Frontend::addresses(&queue);
    (address.flags, address.log) = (vring_flags::LOG, elsewhere);
    migration.frontend.must(&M::SetVringAddr(address), &[])?;
    queue.echo(&guest, b"logged..")?;
    assert!(migration.log.is_marked(elsewhere));
    Ok(())
}
