//! Nothing is leaked, whatever is repeated (REGRESSIONS.md rows 33, 35 and 36). One rule: one test in this file, because
//! it counts what the whole process holds.

use anyhow::Context as _;
use anyhow::Result;
use host_os::EventFd;
use protocol::EchoDevice;
use protocol::Frontend;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use protocol::open_descriptors;
use protocol::resident_kib;
use std::os::fd::AsFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;

const ROUNDS: usize = 1000;
/// Noise of allocator and thread stacks.
const RSS_SLACK_KIB: u64 = 8 << 10;

/// Runs `step` a few times for warming up, then `rounds` times, and compares what the process holds.
fn flat(name: &str, rounds: usize, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..3 {
        step().with_context(|| name.to_owned())?;
    }
    let (fds, memory) = (open_descriptors(), resident_kib());
    for _ in 0..rounds {
        step().with_context(|| name.to_owned())?;
    }
    // A worker or session that is just ending may hold its descriptors a moment longer.
    assert!(
        eventually(|| open_descriptors() <= fds),
        "{name}: descriptors {fds} -> {}",
        open_descriptors()
    );
    let now = resident_kib();
    assert!(
        now <= memory + RSS_SLACK_KIB,
        "{name}: {memory} KiB -> {now} KiB"
    );
    Ok(())
}

#[test]
fn descriptors_and_memory_stay_flat_over_a_thousand_repeats() -> Result<()> {
    let served = Served::new(2)?;
    let guest = Guest::new()?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    repeated_good_messages(&mut frontend, &guest)?;
    repeated_bad_messages(&mut frontend, &guest)?;
    repeated_starts(&mut frontend, &guest)?;
    drop(frontend);
    repeated_connections(&served, &guest)?;
    repeated_servers()
}

fn repeated_good_messages(frontend: &mut Frontend, guest: &Guest) -> Result<()> {
    let event = EventFd::new()?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let ring = VringFd::new(0, true);
    for message in [
        M::SetVringCall(ring),
        M::SetVringErr(ring),
        M::SetVringKick(ring),
    ] {
        flat("ring descriptors", ROUNDS, || {
            frontend.must(&message, &[event.as_fd()])
        })?;
    }
    let num = M::SetVringNum(VringState { index: 0, num: 64 });
    flat("SET_VRING_NUM", ROUNDS, || frontend.must(&num, &[]))?;
    flat("SET_BACKEND_REQ_FD", ROUNDS, || {
        frontend.must(&M::SetBackendReqFd, &[theirs.as_fd()])
    })?;
    flat("SET_MEM_TABLE", ROUNDS, || frontend.set_memory(guest))?;
    let extra = Guest::with_region(1 << 40, 1 << 41, 1 << 20)?;
    flat("ADD_MEM_REG and REM_MEM_REG", ROUNDS, || {
        frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
        frontend.must(&M::RemMemReg(extra.region()), &[extra.file.as_fd()])
    })?;
    flat("SET_LOG_BASE", ROUNDS, || {
        frontend.send(
            &M::SetLogBase(LogBase {
                size: 4096,
                offset: 0,
            }),
            &[guest.file.as_fd()],
        )?;
        frontend.reply(Request::SetLogBase).map(|_| ())
    })?;
    flat("GET_INFLIGHT_FD and SET_INFLIGHT_FD", ROUNDS, || {
        let wanted = Inflight {
            num_queues: 2,
            queue_size: 64,
            ..Default::default()
        };
        frontend.send(&M::GetInflightFd(wanted, 24), &[])?;
        let (reply, fds) = frontend.reply(Request::GetInflightFd)?;
        let vhost_user_protocol::Reply::Inflight(area, _) = reply else {
            anyhow::bail!("{reply:?}");
        };
        let fd = fds.first().context("no descriptor")?;
        frontend.must(&M::SetInflightFd(area), &[fd.as_fd()])
    })?;
    drop(ours);
    Ok(())
}

fn repeated_bad_messages(frontend: &mut Frontend, guest: &Guest) -> Result<()> {
    let event = EventFd::new()?;
    let fds = [event.as_fd(); 32];
    let bad = [
        M::GetFeatures,
        M::SetOwner,
        M::SetVringKick(VringFd::new(7, true)),
        M::SetMemTable(vec![guest.region()]),
        M::SetInflightFd(Inflight::default()),
        M::SetLogBase(LogBase::default()),
        M::GetInflightFd(Inflight::default(), 24),
        M::Unknown(Request(99)),
    ];
    for message in bad {
        for count in [1, 8, 32] {
            flat("bad message with descriptors", ROUNDS / 10, || {
                frontend.raw(&message.encode(true), &fds[..count])?;
                frontend.reply(message.request()).map(|_| ())
            })?;
        }
    }
    Ok(())
}

fn repeated_starts(frontend: &mut Frontend, guest: &Guest) -> Result<()> {
    flat("start, request, stop", ROUNDS / 5, || {
        let mut queue = guest.queue(0, QueueShape::SPLIT)?;
        frontend.start_queue(&queue, 0)?;
        queue.echo(guest, b"round we")?;
        frontend.stop_queue(&queue).map(|_| ())
    })?;
    flat("disable and enable", ROUNDS / 5, || {
        let state = |num| M::SetVringEnable(VringState { index: 0, num });
        frontend.must(&state(0), &[])?;
        frontend.must(&state(1), &[])
    })
}

fn repeated_connections(served: &Served, guest: &Guest) -> Result<()> {
    flat("connections", ROUNDS / 5, || {
        let mut queue = guest.queue(0, QueueShape::SPLIT)?;
        let mut frontend = served.connect()?;
        frontend.negotiate(QueueShape::SPLIT.features)?;
        frontend.set_memory(guest)?;
        frontend.start_queue(&queue, 0)?;
        queue.echo(guest, b"hello...")
    })?;
    flat("truncated memory", ROUNDS / 20, || {
        let guest = Guest::new()?;
        let queue = guest.queue(0, QueueShape::SPLIT)?;
        let mut frontend = served.connect()?;
        frontend.negotiate(QueueShape::SPLIT.features)?;
        frontend.set_memory(&guest)?;
        frontend.start_queue(&queue, 0)?;
        nix::unistd::ftruncate(&guest.file, 0)?;
        queue.kick.notify();
        anyhow::ensure!(frontend.is_closed_by_server(), "not closed");
        Ok(())
    })
}

fn repeated_servers() -> Result<()> {
    flat("servers", 100, || {
        let served = Served::new(4)?;
        let mut frontend = served.connect()?;
        frontend.negotiate(QueueShape::PACKED.features)?;
        drop(EchoDevice::new(1));
        Ok(())
    })
}
