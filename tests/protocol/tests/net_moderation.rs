//! Interrupts that a driver wants held back (VQ_NOTF_COAL), under the real server. One rule: times are bounds from below,
//! or so long that nobody waits for them.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use net_backend::Fabric;
use net_backend::NetSpec;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use protocol::DEADLINE;
use protocol::GuestQueue;
use protocol::Machine;
use protocol::ServedCard;
use protocol::eventually;
use std::os::fd::AsFd as _;
use std::time::Duration;
use std::time::Instant;
use virtio_spec::feature::RING_EVENT_IDX;
use virtio_spec::feature::RING_PACKED;
use virtio_spec::feature::VERSION_1;
use virtio_spec::net::feature;
use virtqueue::Segment;

const FEATURES: u64 = VERSION_1 | feature::CTRL_VQ | feature::VQ_NOTF_COAL;
const RINGS: [u64; 4] = [0, RING_EVENT_IDX, RING_PACKED, RING_PACKED | RING_EVENT_IDX];
const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xa];
const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xb];
const RECEIVE: u8 = 0;
const TRANSMIT: u8 = 1;
/// Longer than any test, in microseconds.
const FOR_EVER: u32 = 3_600_000_000;

fn frame(to: [u8; 6], from: [u8; 6], mark: u8) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x88, 0xb5]].concat();
    bytes.resize(60, mark);
    bytes
}

/// A sender, and a receiver with a control queue, on one switch.
struct Pair {
    a: Machine,
    b: Machine,
    control: GuestQueue,
    _cards: [ServedCard; 2],
}

impl Pair {
    fn new(features: u64) -> Result<Self> {
        let fabric = Fabric::default();
        let card = |name| ServedCard::new(name, NetSpec::on_switch("lan"), &fabric);
        let cards = [card("a")?, card("b")?];
        let mut a = Machine::new(&cards[0], features & !feature::CTRL_VQ, 1)?;
        let mut b = Machine::new(&cards[1], features, 1)?;
        a.enable(0, true)?;
        b.enable(0, true)?;
        let control = b.describe(2)?;
        b.frontend.enable(&control, true)?;
        a.greet(0, &b, &frame([0xff; 6], A, 0))?;
        b.wait_for(0, &frame([0xff; 6], A, 0))?;
        b.greet(0, &a, &frame(A, B, 0))?;
        // Behind this one no greeting is under way.
        a.send(0, &frame(B, A, 0))?;
        b.wait_for(0, &frame(B, A, 0))?;
        let mut pair = Self {
            a,
            b,
            control,
            _cards: cards,
        };
        pair.quiet()?;
        Ok(pair)
    }

    /// Sets the moderation of a queue of the receiver.
    fn moderate(&mut self, queue: u8, packets: u32, usecs: u32) -> Result<()> {
        let mut request = vec![6, 2, queue, 0, 0, 0];
        request.extend(packets.to_le_bytes());
        request.extend(usecs.to_le_bytes());
        let (at, answer) = (self.b.guest.buffer(60), self.b.guest.buffer(61));
        self.b.guest.memory.write(at, &request)?;
        let readable = Segment {
            addr: at,
            len: u32::try_from(request.len())?,
        };
        let room = Segment {
            addr: answer,
            len: 1,
        };
        let added = self.control.driver.add(&[readable], &[room], None);
        added.map_err(|error| anyhow::anyhow!("{error}"))?;
        self.control.publish();
        self.control.wait(1)?;
        let mut ack = [0xff];
        self.b.guest.memory.read(answer, &mut ack)?;
        ensure!(ack == [0], "refused");
        Ok(())
    }

    fn receive(&mut self) -> Result<&mut GuestQueue> {
        self.b.receive.first_mut().context("a receive queue")
    }

    /// Takes what the receiver has, arms it, and forgets interrupts up to now.
    fn quiet(&mut self) -> Result<()> {
        let queue = self.receive()?;
        loop {
            while queue
                .driver
                .pop()
                .map_err(|error| anyhow::anyhow!("{error}"))?
                .is_some()
            {}
            queue.call.drain();
            if !queue.driver.arm() {
                return Ok(());
            }
        }
    }

    /// Waits until the receiver's ring holds `count` frames more, without an interrupt.
    fn frames(&mut self, count: usize) -> Result<()> {
        let queue = self.receive()?;
        let mut seen = 0;
        let all = eventually(|| {
            while let Ok(Some(_)) = queue.driver.pop() {
                seen += 1;
            }
            seen >= count
        });
        ensure!(all, "{seen} of {count} frames");
        Ok(())
    }
}

fn interrupted(queue: &GuestQueue) -> Result<()> {
    let timeout = PollTimeout::try_from(DEADLINE)?;
    let mut fds = [PollFd::new(queue.call.as_fd(), PollFlags::POLLIN)];
    ensure!(nix::poll::poll(&mut fds, timeout)? == 1, "no interrupt");
    queue.call.drain();
    Ok(())
}

#[test]
fn a_received_frame_is_told_when_its_time_is_over() -> Result<()> {
    for ring in RINGS {
        let mut pair = Pair::new(FEATURES | ring)?;
        pair.moderate(RECEIVE, 0, 150_000)?;
        for mark in 1..3 {
            pair.quiet()?;
            let start = Instant::now();
            pair.a.send(0, &frame(B, A, mark))?;
            interrupted(pair.receive()?)?;
            let took = start.elapsed();
            ensure!(took >= Duration::from_millis(150), "{ring:#x}: {took:?}");
        }
        pair.moderate(RECEIVE, 0, 0)?;
        pair.quiet()?;
        pair.a.send(0, &frame(B, A, 9))?;
        interrupted(pair.receive()?)?;
    }
    Ok(())
}

#[test]
fn as_many_frames_as_the_driver_wants_are_told_at_once() -> Result<()> {
    for ring in RINGS {
        let mut pair = Pair::new(FEATURES | ring)?;
        pair.moderate(RECEIVE, 4, FOR_EVER)?;
        pair.quiet()?;
        for round in 0..3 {
            for mark in 0..3 {
                pair.a.send(0, &frame(B, A, mark))?;
            }
            pair.frames(3)?;
            ensure!(!pair.receive()?.call.drain(), "{ring:#x} {round}");
            pair.a.send(0, &frame(B, A, 3))?;
            interrupted(pair.receive()?)?;
            pair.quiet()?;
        }
    }
    Ok(())
}

#[test]
fn what_is_held_back_is_told_before_the_queue_stops() -> Result<()> {
    for ring in RINGS {
        let mut pair = Pair::new(FEATURES | ring)?;
        pair.moderate(RECEIVE, 0, FOR_EVER)?;
        pair.quiet()?;
        pair.a.send(0, &frame(B, A, 1))?;
        pair.frames(1)?;
        ensure!(!pair.receive()?.call.drain(), "{ring:#x}");
        let queue = pair.b.receive.first().context("a receive queue")?;
        pair.b.frontend.stop_queue(queue)?;
        interrupted(queue)?;
    }
    Ok(())
}

#[test]
fn sent_frames_are_told_when_their_time_is_over() -> Result<()> {
    for ring in RINGS {
        let mut pair = Pair::new(FEATURES | ring)?;
        pair.moderate(TRANSMIT, 0, 150_000)?;
        for mark in 1..3 {
            let start = Instant::now();
            let queue = pair.b.transmit.first_mut().context("a transmit queue")?;
            queue.call.drain();
            ensure!(!queue.driver.arm());
            pair.b.guest.memory.write(
                pair.b.guest.buffer(62),
                &[&[0; 12][..], &frame(A, B, mark)].concat(),
            )?;
            let part = Segment {
                addr: pair.b.guest.buffer(62),
                len: 72,
            };
            let added = queue.driver.add(&[part], &[], None);
            added.map_err(|error| anyhow::anyhow!("{error}"))?;
            queue.publish();
            interrupted(queue)?;
            let took = start.elapsed();
            ensure!(took >= Duration::from_millis(150), "{ring:#x}: {took:?}");
            ensure!(queue.wait(1)?.len() == 1);
        }
    }
    Ok(())
}
