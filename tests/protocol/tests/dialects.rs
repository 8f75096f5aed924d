//! Front-ends that speak vhost-user in their own way, as other back-ends let them. One rule: each test is what a
//! front-end in use does, or may do by the document, that a stricter reading of it would leave waiting.

use anyhow::Result;
use anyhow::ensure;
use host_os::EventFd;
use protocol::Frontend;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::os::fd::AsFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;
use vhost_user_protocol::feature;
use vhost_user_protocol::feature::protocol as bits;
use virtqueue::Segment;

const SPLIT: QueueShape = QueueShape::SPLIT;

#[test]
fn the_message_that_takes_up_acknowledgements_is_acknowledged_itself() -> Result<()> {
    // So asks alioth; DPDK, libvhost-user and rust-vmm answer.
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    let taken_up = bits::REPLY_ACK | bits::MQ;
    frontend.must(&M::SetProtocolFeatures(taken_up), &[])?;
    // Refused, and told so, also where nothing was taken up before.
    let mut second = Served::new(1)?;
    let mut frontend = second.connect()?;
    let refused = bits::REPLY_ACK | 1 << 50;
    ensure!(frontend.ask(&M::SetProtocolFeatures(refused), &[])? != 0);
    second.shut_down();
    Ok(())
}

#[test]
fn nothing_is_acknowledged_before_acknowledgements_are_taken_up() -> Result<()> {
    // A front-end made of rust-vmm's crate may ask with every message from the start, and waits only from there on.
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.raw(&M::SetOwner.encode(true), &[])?;
    frontend.raw(&M::SetProtocolFeatures(bits::MQ).encode(true), &[])?;
    let first = frontend.number(&M::GetQueueNum)?;
    ensure!(first == 1, "another answer came first");
    Ok(())
}

#[test]
fn call_descriptor_is_signalled_when_it_is_set_whether_or_not_the_ring_runs() -> Result<()> {
    // QEMU's tests of a vhost-user disk wait for this interrupt before their first request.
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let queue = guest.queue(0, SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    let ring = |frontend: &mut Frontend| -> Result<()> {
        let call = EventFd::new()?;
        frontend.must(&M::SetVringCall(VringFd::new(0, true)), &[call.as_fd()])?;
        ensure!(eventually(|| call.drain()), "no signal");
        Ok(())
    };
    ring(&mut frontend)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    ring(&mut frontend)?;
    frontend.enable(&queue, false)?;
    ring(&mut frontend)?;
    frontend.stop_queue(&queue)?;
    ring(&mut frontend)?;
    // One whose counter is full was signalled already; writing to it would wait.
    let full = nix::sys::eventfd::EventFd::from_value(0)?;
    full.write(u64::MAX - 1)?;
    frontend.must(&M::SetVringCall(VringFd::new(0, true)), &[full.as_fd()])
}

#[test]
fn features_without_the_protocol_features_enable_all_rings_at_once() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    frontend.set_memory(&guest)?;
    frontend.must(&M::SetVringNum(VringState { index: 0, num: 64 }), &[])?;
    frontend.must(&M::SetVringAddr(Frontend::addresses(&queue)), &[])?;
    let call = M::SetVringCall(VringFd::new(0, true));
    frontend.must(&call, &[queue.call.as_fd()])?;
    let kick = M::SetVringKick(VringFd::new(0, true));
    frontend.must(&kick, &[queue.kick.as_fd()])?;
    frontend.send(&M::SetFeatures(SPLIT.features), &[])?;
    queue.echo(&guest, b"at once!")?;
    // Taken up again, the bit changes nothing of a ring that is enabled.
    frontend.send(
        &M::SetFeatures(SPLIT.features | feature::PROTOCOL_FEATURES),
        &[],
    )?;
    queue.echo(&guest, b"as before")?;
    frontend.send(&M::GetVringBase(VringState { index: 0, num: 0 }), &[])?;
    let (reply, _) = frontend.reply(Request::GetVringBase)?;
    ensure!(matches!(reply, Reply::Vring(_)), "{reply:?}");
    Ok(())
}

#[test]
fn a_packed_ring_goes_on_from_every_base_that_it_told() -> Result<()> {
    // Small, and with chains that soon straddle the ring's end: every position of two laps is told once.
    let shape = QueueShape {
        size: 8,
        ..QueueShape::PACKED
    };
    // A front-end may hand back all of the base, or the half that split rings have.
    for dialect in [0xffff_ffff, 0xffff] {
        let served = Served::new(1)?;
        let guest = Guest::new()?;
        let mut queue = guest.queue(0, shape)?;
        let mut frontend = served.connect()?;
        frontend.negotiate(shape.features)?;
        frontend.set_memory(&guest)?;
        let mut base = 0;
        for _ in 0..32 {
            frontend.start_queue(&queue, base & dialect)?;
            let segment = |slot, len| Segment {
                addr: guest.buffer(slot),
                len,
            };
            let readable = [segment(0, 8), segment(1, 8)];
            let added = queue.driver.add(&readable, &[segment(2, 16)], None);
            let id = added.map_err(|error| anyhow::anyhow!("{error}"))?;
            queue.publish();
            ensure!(queue.wait(1)? == [(id, 16)], "base {base:#x}");
            base = frontend.stop_queue(&queue)?;
        }
    }
    Ok(())
}
