//! Malformed messages, wrong descriptors, impossible rings and memory: REGRESSIONS.md, rows on session and
//! memory. One rule: after each attack the same server serves the next front-end.

use anyhow::Result;
use host_os::EventFd;
use protocol::DEADLINE;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Header;
use vhost_user_protocol::HeaderFlags;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::MemoryRegion;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;

const SPLIT: QueueShape = QueueShape::SPLIT;

fn negotiated(served: &Served) -> Result<Frontend> {
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    Ok(frontend)
}

fn running(served: &Served) -> Result<(Frontend, Guest, GuestQueue)> {
    let guest = Guest::new()?;
    let queue = guest.queue(0, SPLIT)?;
    let mut frontend = negotiated(served)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    Ok((frontend, guest, queue))
}

/// The proof that the server is well.
fn serves(served: &Served) -> Result<()> {
    let (_frontend, guest, mut queue) = running(served)?;
    queue.echo(&guest, b"all well")
}

/// Descriptors of every kind that is not wanted.
fn odd_descriptors() -> Result<Vec<OwnedFd>> {
    let (pipe, writer) = std::io::pipe()?;
    let (socket, peer) = std::os::unix::net::UnixStream::pair()?;
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty())?;
    let small = host_os::memfd::create("small", 0)?;
    Ok(vec![
        pipe.into(),
        writer.into(),
        socket.into(),
        peer.into(),
        epoll.0,
        small,
        std::fs::File::open("/dev/null")?.into(),
        std::fs::File::open("/")?.into(),
    ])
}

#[test]
fn ring_indices_out_of_range_are_refused_at_full_width() -> Result<()> {
    // REGRESSIONS rows 6 and 31.
    let served = Served::new(2)?;
    let mut frontend = negotiated(&served)?;
    let event = EventFd::new()?;
    for index in [
        2,
        0xff,
        0x100,
        0xffff,
        0x1_0000,
        0x1_0001,
        0x8000_0000,
        u32::MAX,
    ] {
        let state = VringState { index, num: 1 };
        for message in [
            M::SetVringNum(state),
            M::SetVringBase(state),
            M::SetVringEnable(state),
        ] {
            assert_ne!(frontend.ask(&message, &[])?, 0, "{message:?}");
        }
        let address = vhost_user_protocol::VringAddress {
            index,
            ..Default::default()
        };
        assert_ne!(frontend.ask(&M::SetVringAddr(address), &[])?, 0);
        assert_eq!(frontend.get(&M::GetVringBase(state))?, Reply::Empty);
    }
    let odd = VringFd::new(2, true);
    for message in [
        M::SetVringKick(odd),
        M::SetVringCall(odd),
        M::SetVringErr(odd),
    ] {
        assert_ne!(frontend.ask(&message, &[event.as_fd()])?, 0);
    }
    drop(frontend);
    serves(&served)
}

#[test]
fn impossible_queue_sizes_are_refused() -> Result<()> {
    // REGRESSIONS row 5.
    let served = Served::new(1)?;
    let (mut frontend, guest, queue) = running(&served)?;
    frontend.stop_queue(&queue)?;
    for num in [0, 1025, 0x1_0000, 0x1_0040, u32::MAX] {
        assert_ne!(
            frontend.ask(&M::SetVringNum(VringState { index: 0, num }), &[])?,
            0,
            "{num}"
        );
    }
    // A split ring of three is refused when it starts, and the next good start works.
    frontend.must(&M::SetVringNum(VringState { index: 0, num: 3 }), &[])?;
    let kick = M::SetVringKick(VringFd::new(0, true));
    assert_ne!(frontend.ask(&kick, &[queue.kick.as_fd()])?, 0);
    frontend.stop_queue(&queue)?;
    let mut queue = guest.queue(0, SPLIT)?;
    frontend.start_queue(&queue, 0)?;
    queue.echo(&guest, b"all well")
}

#[test]
fn ring_enabled_before_its_set_up_waits_for_it() -> Result<()> {
    // REGRESSIONS row 5.
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, SPLIT)?;
    let mut frontend = negotiated(&served)?;
    frontend.enable(&queue, true)?;
    frontend.must(
        &M::SetVringKick(VringFd::new(0, true)),
        &[queue.kick.as_fd()],
    )?;
    frontend.must(
        &M::SetVringCall(VringFd::new(0, true)),
        &[queue.call.as_fd()],
    )?;
    frontend.must(&M::SetVringAddr(Frontend::addresses(&queue)), &[])?;
    frontend.must(&M::SetVringNum(VringState { index: 0, num: 64 }), &[])?;
    frontend.set_memory(&guest)?;
    queue.echo(&guest, b"at last.")
}

#[test]
fn running_ring_cannot_be_moved_resized_or_rebased() -> Result<()> {
    // REGRESSIONS rows 16 and 17.
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    queue.echo(&guest, b"before..")?;
    assert_ne!(
        frontend.ask(&M::SetVringNum(VringState { index: 0, num: 128 }), &[])?,
        0
    );
    assert_ne!(
        frontend.ask(&M::SetVringBase(VringState { index: 0, num: 9 }), &[])?,
        0
    );
    let mut moved = Frontend::addresses(&queue);
    moved.used += 4096;
    assert_ne!(frontend.ask(&M::SetVringAddr(moved), &[])?, 0);
    assert_ne!(
        frontend.ask(&M::SetFeatures(virtio_spec::feature::VERSION_1), &[])?,
        0
    );
    queue.echo(&guest, b"after...")
}

#[test]
fn ring_across_a_hole_or_the_end_of_memory_does_not_start() -> Result<()> {
    // REGRESSIONS row 28.
    let served = Served::new(2)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let end = guest.spec.user_addr + guest.spec.size;
    for bad in [
        0,
        8,
        end,
        end - 16,
        u64::MAX,
        u64::MAX - 7,
        guest.spec.user_addr + 1,
    ] {
        for area in 0..3 {
            let other = guest.queue(1, SPLIT)?;
            frontend.describe_queue(&other, 0)?;
            let mut address = Frontend::addresses(&other);
            match area {
                0 => address.descriptor = bad,
                1 => address.available = bad,
                _ => address.used = bad,
            }
            frontend.must(&M::SetVringAddr(address), &[])?;
            assert_ne!(
                frontend.ask(&M::SetVringEnable(VringState { index: 1, num: 1 }), &[])?,
                0
            );
            assert!(other.err.drain(), "err is signalled");
            frontend.stop_queue(&other)?;
            frontend.enable(&other, false)?;
        }
    }
    queue.echo(&guest, b"not hurt")
}

#[test]
fn buffers_across_region_borders_are_served_and_holes_are_not() -> Result<()> {
    // REGRESSIONS rows 4, 23 and 24.
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let next_addr = guest.spec.guest_addr + guest.spec.size;
    let next = Guest::with_region(next_addr, 0x7c00_0000_0000, 1 << 20)?;
    let mut queue = guest.queue(0, SPLIT)?;
    let mut frontend = negotiated(&served)?;
    let both = vec![guest.region(), next.region()];
    frontend.must(
        &M::SetMemTable(both),
        &[guest.file.as_fd(), next.file.as_fd()],
    )?;
    frontend.start_queue(&queue, 0)?;
    guest.memory.write(next_addr - 4, b"left")?;
    next.memory.write(next_addr, b"rite")?;
    let readable = [virtqueue::Segment {
        addr: next_addr - 4,
        len: 8,
    }];
    let writable = [virtqueue::Segment {
        addr: guest.buffer(0),
        len: 8,
    }];
    let added = queue.driver.add(&readable, &writable, None);
    let id = added.map_err(|error| anyhow::anyhow!("{error}"))?;
    queue.publish();
    assert_eq!(queue.wait(1)?, [(id, 8)]);
    let mut answer = [0; 8];
    guest.memory.read(guest.buffer(0), &mut answer)?;
    assert_eq!(&answer, b"leftrite");
    for bad in [0, next_addr + (1 << 20) - 4, u64::MAX - 3] {
        let readable = [virtqueue::Segment { addr: bad, len: 8 }];
        let added = queue.driver.add(&readable, &writable, None);
        let id = added.map_err(|error| anyhow::anyhow!("{error}"))?;
        queue.publish();
        assert_eq!(queue.wait(1)?, [(id, 0)]);
    }
    queue.echo(&guest, b"all well")
}

#[test]
fn unknown_requests_are_refused_and_the_connection_stays() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = negotiated(&served)?;
    for request in [0, 22, 26, 28, 33, 35, 41, 44, 45, 1000, u32::MAX] {
        let message = M::Unknown(Request(request));
        frontend.send(&message, &[])?;
        assert_ne!(frontend.ask(&message, &[])?, 0, "{request}");
    }
    frontend.number(&M::GetFeatures)?;
    assert!(served.server.statistics().session.message_errors >= 22);
    Ok(())
}

#[test]
fn wrong_payload_lengths_are_refused_and_the_connection_stays() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = negotiated(&served)?;
    let need_reply = HeaderFlags::VERSION | HeaderFlags::NEED_REPLY;
    for request in 1..=44 {
        for size in [1_usize, 7, 9, 13, 33, 4095] {
            let header = Header {
                request,
                flags: HeaderFlags(need_reply),
                size: size as u32,
            };
            let mut bytes = header.encode().to_vec();
            bytes.resize(12 + size, 0xa5);
            frontend.raw(&bytes, &[])?;
            frontend.reply(Request(request))?;
        }
    }
    frontend.number(&M::GetFeatures)?;
    drop(frontend);
    serves(&served)
}

#[test]
fn broken_framing_closes_the_connection_only() -> Result<()> {
    let served = Served::new(1)?;
    let header = |flags, size| {
        Header {
            request: 1,
            flags: HeaderFlags(flags),
            size,
        }
        .encode()
    };
    let version = HeaderFlags::VERSION;
    for bytes in [
        header(0, 0),
        header(2, 0),
        header(version | HeaderFlags::REPLY, 0),
        header(version, 4097),
        header(version, u32::MAX),
    ] {
        let mut frontend = served.connect()?;
        frontend.raw(&bytes, &[])?;
        assert!(frontend.is_closed_by_server());
    }
    serves(&served)
}

#[test]
fn message_in_single_bytes_is_understood_and_half_a_message_is_no_trouble() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    for byte in M::GetFeatures.encode(false) {
        frontend.raw(&[byte], &[])?;
    }
    assert!(frontend.reply(Request::GetFeatures)?.0.number().is_some());
    let whole = M::SetFeatures(0).encode(false);
    for cut in 1..whole.len() {
        let mut frontend = served.connect()?;
        frontend.raw(&whole[..cut], &[])?;
        drop(frontend);
    }
    drop(frontend);
    serves(&served)
}

#[test]
fn shutdown_does_not_wait_for_the_rest_of_a_message() -> Result<()> {
    let mut served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.raw(&M::SetFeatures(0).encode(false)[..15], &[])?;
    assert!(eventually(|| served.server.statistics().session.connected));
    let start = std::time::Instant::now();
    served.shut_down();
    assert!(start.elapsed() < DEADLINE / 2);
    Ok(())
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    for fd in odd_descriptors()? {
        let fds = [fd.as_fd()];
        let ring = VringFd::new(0, true);
        let is_epoll =
            nix::sys::stat::fstat(&fd)?.st_ino == nix::sys::stat::fstat(&EventFd::new()?)?.st_ino;
        // An epoll descriptor shares its inode with eventfds; writing to it fails at once, which harms nobody.
        if !is_epoll {
            assert_ne!(frontend.ask(&M::SetVringKick(ring), &fds)?, 0);
            assert_ne!(frontend.ask(&M::SetVringCall(ring), &fds)?, 0);
            assert_ne!(frontend.ask(&M::SetVringErr(ring), &fds)?, 0);
        }
        assert_ne!(
            frontend.ask(&M::SetMemTable(vec![guest.region()]), &fds)?,
            0
        );
        let far = MemoryRegion {
            guest_addr: 1 << 40,
            user_addr: 1 << 40,
            ..guest.region()
        };
        assert_ne!(frontend.ask(&M::AddMemReg(far), &fds)?, 0);
        assert_ne!(
            frontend.ask(
                &M::SetLogBase(LogBase {
                    size: 4096,
                    offset: 0
                }),
                &fds
            )?,
            0
        );
        let area = Inflight {
            mmap_size: 4096,
            num_queues: 1,
            queue_size: 64,
            ..Default::default()
        };
        assert_ne!(frontend.ask(&M::SetInflightFd(area), &fds)?, 0);
    }
    let pipe = odd_descriptors()?.swap_remove(0);
    assert_ne!(frontend.ask(&M::SetBackendReqFd, &[pipe.as_fd()])?, 0);
    queue.echo(&guest, b"all well")
}

#[test]
fn descriptors_in_the_wrong_number_are_refused() -> Result<()> {
    // REGRESSIONS row 35.
    let served = Served::new(1)?;
    let mut frontend = negotiated(&served)?;
    let guest = Guest::new()?;
    let event = EventFd::new()?;
    let eight = [event.as_fd(); 8];
    let ring = VringFd::new(0, true);
    assert_ne!(frontend.ask(&M::SetVringKick(ring), &[])?, 0);
    assert_ne!(frontend.ask(&M::SetVringKick(ring), &eight)?, 0);
    assert_ne!(
        frontend.ask(&M::SetVringKick(VringFd::new(0, false)), &eight[..1])?,
        0
    );
    assert_ne!(frontend.ask(&M::SetMemTable(vec![guest.region()]), &[])?, 0);
    assert_ne!(
        frontend.ask(&M::SetMemTable(vec![guest.region()]), &eight[..2])?,
        0
    );
    assert_ne!(frontend.ask(&M::SetOwner, &eight)?, 0);
    assert_ne!(frontend.ask(&M::AddMemReg(guest.region()), &[])?, 0);
    assert_ne!(frontend.ask(&M::SetBackendReqFd, &[])?, 0);
    drop(frontend);
    serves(&served)
}

#[test]
fn descriptor_flood_closes_the_connection_only() -> Result<()> {
    let served = Served::new(1)?;
    let event = EventFd::new()?;
    let flood: Vec<BorrowedFd<'_>> = vec![event.as_fd(); 253];
    let mut frontend = served.connect()?;
    frontend.raw(&M::GetFeatures.encode(false), &flood)?;
    assert!(frontend.is_closed_by_server());
    // The same in small portions, one with each byte of a message.
    let mut frontend = served.connect()?;
    for byte in M::SetFeatures(0).encode(false) {
        if frontend.raw(&[byte], &flood[..8]).is_err() {
            break;
        }
    }
    assert!(frontend.is_closed_by_server());
    serves(&served)
}

#[test]
fn impossible_memory_tables_are_refused_and_the_old_one_stays() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let good = guest.region();
    let fd = guest.file.as_fd();
    let bad = [
        vec![MemoryRegion { size: 0, ..good }],
        vec![MemoryRegion {
            size: u64::MAX,
            ..good
        }],
        vec![MemoryRegion {
            guest_addr: u64::MAX - 4095,
            ..good
        }],
        vec![MemoryRegion {
            user_addr: u64::MAX - 4095,
            ..good
        }],
        vec![MemoryRegion {
            mmap_offset: u64::MAX - 4095,
            ..good
        }],
        vec![MemoryRegion {
            mmap_offset: 4096,
            ..good
        }],
        vec![MemoryRegion {
            guest_addr: 1,
            ..good
        }],
        vec![good, good],
        vec![
            good,
            MemoryRegion {
                guest_addr: good.guest_addr + 4096,
                user_addr: 0,
                ..good
            },
        ],
    ];
    for regions in bad {
        let fds = vec![fd; regions.len()];
        assert_ne!(
            frontend.ask(&M::SetMemTable(regions.clone()), &fds)?,
            0,
            "{regions:x?}"
        );
        queue.echo(&guest, b"all well")?;
    }
    Ok(())
}

#[test]
fn truncated_guest_memory_ends_that_connection_only() -> Result<()> {
    let victim = Served::new(1)?;
    let bystander = Served::new(1)?;
    let (_front, other_guest, mut other_queue) = running(&bystander)?;
    for _ in 0..3 {
        let (mut frontend, guest, mut queue) = running(&victim)?;
        queue.echo(&guest, b"all well")?;
        nix::unistd::ftruncate(&guest.file, 0)?;
        queue.kick.notify();
        assert!(frontend.is_closed_by_server());
        other_queue.echo(&other_guest, b"not hurt")?;
    }
    serves(&victim)
}

#[test]
fn truncated_log_and_record_end_that_connection_only() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let log = host_os::memfd::create("log", 8192)?;
    frontend.ask_log(
        LogBase {
            size: 8192,
            offset: 0,
        },
        &log,
    )?;
    let features = SPLIT.features | 1 << 30 | 1 << 26;
    frontend.must(&M::SetFeatures(features), &[])?;
    queue.echo(&guest, b"logged..")?;
    nix::unistd::ftruncate(&log, 0)?;
    let _ = queue.add(&guest, 0, b"lost log");
    queue.publish();
    assert!(frontend.is_closed_by_server());
    for shape in [SPLIT, QueueShape::PACKED] {
        truncate_the_record(&served, shape)?;
    }
    serves(&served)
}

/// The front-end says nothing more; the queue's next request is enough.
fn truncate_the_record(served: &Served, shape: QueueShape) -> Result<()> {
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, shape)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(shape.features)?;
    frontend.set_memory(&guest)?;
    let wanted = Inflight {
        num_queues: 1,
        queue_size: shape.size,
        ..Inflight::default()
    };
    frontend.send(&M::GetInflightFd(wanted, size_of::<Inflight>()), &[])?;
    let (reply, fds) = frontend.reply(Request::GetInflightFd)?;
    let (Reply::Inflight(made, _), [record]) = (reply, fds.as_slice()) else {
        anyhow::bail!("no record");
    };
    frontend.must(&M::SetInflightFd(made), &[record.as_fd()])?;
    frontend.start_queue(&queue, shape.fresh_base())?;
    queue.echo(&guest, b"recorded")?;
    // Sealed against it, but for one that the front-end made itself.
    let own = host_os::memfd::create("record", made.mmap_offset + made.mmap_size)?;
    frontend.stop_queue(&queue)?;
    frontend.must(&M::SetInflightFd(made), &[own.as_fd()])?;
    let with_fd = VringFd::new(0, true);
    frontend.must(&M::SetVringCall(with_fd), &[queue.call.as_fd()])?;
    frontend.must(&M::SetVringKick(with_fd), &[queue.kick.as_fd()])?;
    queue.echo(&guest, b"recorded")?;
    nix::unistd::ftruncate(&own, 0)?;
    let _ = queue.add(&guest, 0, b"no trace");
    queue.publish();
    anyhow::ensure!(frontend.is_closed_by_server());
    Ok(())
}

/// `SET_LOG_BASE` has a reply of its own.
trait AskLog {
    fn ask_log(&mut self, log: LogBase, fd: &OwnedFd) -> Result<()>;
}

impl AskLog for Frontend {
    fn ask_log(&mut self, log: LogBase, fd: &OwnedFd) -> Result<()> {
        self.send(&M::SetLogBase(log), &[fd.as_fd()])?;
        let (reply, _) = self.reply(Request::SetLogBase)?;
        anyhow::ensure!(reply == Reply::Log(log), "{reply:?}");
        Ok(())
    }
}

#[test]
fn log_that_cannot_hold_all_pages_is_refused() -> Result<()> {
    // REGRESSIONS row 30.
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let log = host_os::memfd::create("log", 8192)?;
    let bad = [
        (8, 0),
        (0, 0),
        (u64::MAX, 0),
        (8192, u64::MAX),
        (u64::MAX, u64::MAX),
        (8192, 8192),
    ];
    for (size, offset) in bad {
        let message = M::SetLogBase(LogBase { size, offset });
        assert_ne!(
            frontend.ask(&message, &[log.as_fd()])?,
            0,
            "{size:#x} at {offset:#x}"
        );
    }
    queue.echo(&guest, b"all well")?;
    // Without need_reply the front-end cannot be told, and going on could lose its guest's writes.
    frontend.send(
        &M::SetLogBase(LogBase { size: 8, offset: 0 }),
        &[log.as_fd()],
    )?;
    assert!(frontend.is_closed_by_server());
    serves(&served)
}

#[test]
fn hostile_descriptors_while_logging_hurt_nobody() -> Result<()> {
    // REGRESSIONS row 29.
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let log = host_os::memfd::create("log", 8192)?;
    frontend.ask_log(
        LogBase {
            size: 4096,
            offset: 4096,
        },
        &log,
    )?;
    frontend.must(&M::SetFeatures(SPLIT.features | 1 << 30 | 1 << 26), &[])?;
    let readable = [virtqueue::Segment {
        addr: guest.buffer(0),
        len: 16,
    }];
    for (addr, len) in [
        (0, u32::MAX - 15),
        (u64::MAX - 8, 16),
        (1 << 60, 4096),
        (u64::MAX, u32::MAX - 15),
    ] {
        let writable = [virtqueue::Segment { addr, len }];
        let added = queue.driver.add(&readable, &writable, None);
        added.map_err(|error| anyhow::anyhow!("{error}"))?;
        queue.publish();
        queue.wait(1)?;
    }
    let mut before = [0; 4096];
    nix::sys::uio::pread(&log, &mut before, 0)?;
    assert_eq!(before, [0; 4096], "nothing outside the log was touched");
    queue.echo(&guest, b"all well")
}

#[test]
fn in_flight_descriptions_that_lie_are_refused() -> Result<()> {
    // REGRESSIONS row 34.
    let served = Served::new(2)?;
    let mut frontend = negotiated(&served)?;
    let get = |num_queues, queue_size| {
        M::GetInflightFd(
            Inflight {
                num_queues,
                queue_size,
                ..Default::default()
            },
            24,
        )
    };
    for (queues, size) in [(0, 64), (3, 64), (u16::MAX, 64), (1, 0), (1, u16::MAX)] {
        assert_eq!(frontend.get(&get(queues, size))?, Reply::Empty);
    }
    frontend.send(&get(2, 64), &[])?;
    let (Reply::Inflight(good, 24), fds) = frontend.reply(Request::GetInflightFd)? else {
        anyhow::bail!("no in-flight area");
    };
    let fd = fds[0].as_fd();
    let bad = [
        Inflight {
            num_queues: 0,
            ..good
        },
        Inflight {
            num_queues: 3,
            ..good
        },
        Inflight {
            num_queues: u16::MAX,
            ..good
        },
        Inflight {
            queue_size: 0,
            ..good
        },
        Inflight {
            queue_size: u16::MAX,
            ..good
        },
        Inflight {
            mmap_size: 0,
            ..good
        },
        Inflight {
            mmap_offset: 1,
            ..good
        },
        Inflight {
            mmap_offset: 64,
            ..good
        },
        Inflight {
            mmap_offset: u64::MAX - 63,
            ..good
        },
    ];
    for lie in bad {
        assert_ne!(frontend.ask(&M::SetInflightFd(lie), &[fd])?, 0, "{lie:?}");
    }
    frontend.must(&M::SetInflightFd(good), &[fd])?;
    Ok(())
}

#[test]
fn call_descriptor_that_blocks_does_not_hold_the_session() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let flags = nix::sys::eventfd::EfdFlags::EFD_CLOEXEC;
    let full = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags)?;
    full.write(u64::MAX - 1)?;
    frontend.must(&M::SetVringCall(VringFd::new(0, true)), &[full.as_fd()])?;
    queue.add(&guest, 0, b"no bell.")?;
    queue.publish();
    std::thread::sleep(std::time::Duration::from_millis(20));
    frontend.stop_queue(&queue)?;
    Ok(())
}

#[test]
fn call_descriptors_that_block_one_after_the_other_hold_nobody() -> Result<()> {
    let mut served = Served::new(1)?;
    for quits in [false, true] {
        let (mut frontend, guest, mut queue) = running(&served)?;
        let flags = nix::sys::eventfd::EfdFlags::EFD_CLOEXEC;
        for round in 0..4 {
            let full = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags)?;
            full.write(u64::MAX - 1)?;
            let with_fd = VringFd::new(0, true);
            frontend.must(&M::SetVringCall(with_fd), &[full.as_fd()])?;
            frontend.must(&M::SetVringErr(with_fd), &[full.as_fd()])?;
            queue.add(&guest, 2 * round, b"no bell.")?;
            let _ = queue.driver.publish();
            queue.kick.notify();
            assert!(eventually(|| queue.driver.has_used()), "it is served");
        }
        if quits {
            served.shut_down();
            return Ok(());
        }
        drop(frontend);
        serves(&served)?;
    }
    Ok(())
}

#[test]
fn a_device_state_whose_descriptor_blocks_again_holds_nobody() -> Result<()> {
    use vhost_user_protocol::DeviceStatePhase;
    use vhost_user_protocol::DeviceStateTransfer;
    use vhost_user_protocol::TransferDirection;
    let served = Served::new(1)?;
    let mut pipes = Vec::new();
    for round in 0..6 {
        let mut frontend = negotiated(&served)?;
        let (reader, writer) = std::io::pipe()?;
        let load = M::SetDeviceStateFd(DeviceStateTransfer {
            direction: TransferDirection::Load,
            phase: DeviceStatePhase::Stopped,
        });
        frontend.send(&load, &[reader.as_fd()])?;
        let (Reply::U64(answer), _) = frontend.reply(Request::SetDeviceStateFd)? else {
            anyhow::bail!("no number");
        };
        assert_eq!(
            answer & 1,
            u64::from(round >= 4),
            "a few may hang at a time"
        );
        nix::fcntl::fcntl(
            &reader,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
        )?;
        std::thread::sleep(std::time::Duration::from_millis(120));
        assert_ne!(frontend.number(&M::CheckDeviceState)?, 0);
        pipes.push((reader, writer));
    }
    drop(pipes);
    serves(&served)
}

#[test]
fn an_interrupt_that_nobody_took_yet_survives_a_pause() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    queue.call.drain();
    assert!(!queue.driver.arm(), "nothing is used yet");
    queue.add(&guest, 0, b"the first")?;
    queue.publish();
    assert!(eventually(|| queue.driver.has_used()));
    // The driver does not look; the next one is in flight when the memory changes, and takes its time.
    served.device.hold(true);
    queue.add(&guest, 2, b"the second")?;
    let _ = queue.driver.publish();
    queue.kick.notify();
    let taken = || {
        served
            .server
            .statistics()
            .queues
            .first()
            .map(|queue| queue.taken)
    };
    assert!(eventually(|| taken() == Some(2)));
    served.device.slow_drain(true);
    let extra = Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)?;
    frontend.raw(
        &M::AddMemReg(extra.region()).encode(true),
        &[extra.file.as_fd()],
    )?;
    // Longer than anything may wait before it suspects the driver of not reading its interrupts.
    std::thread::sleep(std::time::Duration::from_millis(250));
    served.device.slow_drain(false);
    assert_eq!(frontend.reply(Request::AddMemReg)?.0, Reply::U64(0));
    assert!(queue.call.drain(), "the interrupt is still there");
    Ok(())
}

#[test]
fn guest_that_rewrites_descriptors_all_the_time_hurts_only_itself() -> Result<()> {
    // REGRESSIONS row 39.
    let served = Served::new(2)?;
    let (mut frontend, guest, mut queue) = running(&served)?;
    let mut other = guest.queue(1, SPLIT)?;
    frontend.start_queue(&other, 0)?;
    let table = queue.guest_areas[0];
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (guest, stop) = (&guest, &stop);
        scope.spawn(move || {
            let mut seed = 1_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = table + (seed >> 40) % 64 * 16 + 8;
                let _ = guest.memory.write(at, &(seed >> 16).to_le_bytes());
            }
        });
        for _ in 0..200 {
            if queue.add(guest, 0, b"shifting").is_err() {
                break;
            }
            let _ = queue.driver.publish();
            queue.kick.notify();
            let _ = queue.driver.pop();
            if other.echo(guest, b"not hurt").is_err() {
                break;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    other.echo(&guest, b"not hurt")?;
    drop(frontend);
    serves(&served)
}
