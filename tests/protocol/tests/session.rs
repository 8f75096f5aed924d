//! The session's life: negotiation, rings, memory, configuration, state. One rule: each test is one promise.

use anyhow::Result;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::os::fd::AsFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;

/// A connected, negotiated, running queue 0.
fn running(served: &Served, shape: QueueShape) -> Result<(Frontend, Guest, GuestQueue)> {
    let guest = Guest::new()?;
    let queue = guest.queue(0, shape)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(shape.features)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, fresh_base(shape))?;
    Ok((frontend, guest, queue))
}

fn fresh_base(shape: QueueShape) -> u32 {
    if shape.features & virtio_spec::feature::RING_PACKED != 0 {
        0x8000_8000
    } else {
        0
    }
}

#[test]
fn requests_are_served_on_split_and_packed_rings() -> Result<()> {
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let served = Served::new(1)?;
        let (_frontend, guest, mut queue) = running(&served, shape)?;
        for round in 0..300_u64 {
            queue.echo(&guest, &round.to_le_bytes())?;
        }
        assert_eq!(served.device.journal(), (0..300).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn kick_before_enable_is_not_lost() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    frontend.describe_queue(&queue, 0)?;
    queue.add(&guest, 0, b"earlybrd")?;
    queue.publish();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(
        served.device.journal().is_empty(),
        "a disabled ring is not served"
    );
    frontend.enable(&queue, true)?;
    queue.wait(1)?;
    Ok(())
}

#[test]
fn ring_is_enabled_and_disabled_on_the_fly_without_losing_requests() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    for round in 0..50_u64 {
        frontend.enable(&queue, false)?;
        queue.add(&guest, 0, &round.to_le_bytes())?;
        queue.publish();
        frontend.enable(&queue, true)?;
        queue.wait(1)?;
    }
    assert_eq!(served.device.journal().len(), 50);
    Ok(())
}

#[test]
fn rings_start_enabled_without_protocol_features() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.send(&M::SetOwner, &[])?;
    frontend.send(&M::SetFeatures(QueueShape::SPLIT.features), &[])?;
    frontend.send(&M::SetMemTable(vec![guest.region()]), &[guest.file.as_fd()])?;
    frontend.send(&M::SetVringNum(VringState { index: 0, num: 64 }), &[])?;
    frontend.send(&M::SetVringAddr(Frontend::addresses(&queue)), &[])?;
    frontend.send(
        &M::SetVringCall(VringFd::new(0, true)),
        &[queue.call.as_fd()],
    )?;
    frontend.send(
        &M::SetVringKick(VringFd::new(0, true)),
        &[queue.kick.as_fd()],
    )?;
    queue.echo(&guest, b"old ways")
}

#[test]
fn get_vring_base_drains_and_the_ring_goes_on_elsewhere() -> Result<()> {
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let served = Served::new(1)?;
        let (mut frontend, guest, mut queue) = running(&served, shape)?;
        for _ in 0..100 {
            queue.echo(&guest, b"before..")?;
        }
        served.device.hold(true);
        queue.add(&guest, 0, b"pending.")?;
        queue.publish();
        assert!(eventually(
            || served.server.statistics().queues[0].taken == 101
        ));
        let base = frontend.stop_queue(&queue)?;
        queue.wait(1)?;
        served.device.hold(false);
        drop(frontend);
        let mut second = served.connect()?;
        second.negotiate(shape.features)?;
        second.set_memory(&guest)?;
        second.start_queue(&queue, base)?;
        queue.echo(&guest, b"after...")?;
    }
    Ok(())
}

#[test]
fn memory_table_changes_while_a_ring_runs() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    let extra = Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)?;
    for _ in 0..20 {
        let both = vec![guest.region(), extra.region()];
        frontend.must(
            &M::SetMemTable(both),
            &[guest.file.as_fd(), extra.file.as_fd()],
        )?;
        queue.echo(&guest, b"with two")?;
        frontend.set_memory(&guest)?;
        queue.echo(&guest, b"with one")?;
    }
    Ok(())
}

#[test]
fn memory_slots_come_and_go_while_a_ring_runs() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    assert!(frontend.number(&M::GetMaxMemSlots)? >= 32);
    let extra = Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)?;
    frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
    queue.echo(&guest, b"more mem")?;
    // QEMU 7.2 announces a region once for each pair of a network card's queues.
    frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
    queue.echo(&guest, b"same mem")?;
    let clash = Guest::with_region(0x1_0000_0000, 0x7d00_0000_0000, 1 << 20)?;
    assert_ne!(
        frontend.ask(&M::AddMemReg(clash.region()), &[clash.file.as_fd()])?,
        0
    );
    frontend.must(&M::RemMemReg(extra.region()), &[])?;
    assert_ne!(frontend.ask(&M::RemMemReg(extra.region()), &[])?, 0);
    queue.echo(&guest, b"less mem")
}

#[test]
fn ring_whose_memory_vanishes_stops_with_err_and_comes_back_with_it() -> Result<()> {
    // QEMU replaces a region by removing it first, under running rings.
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    let other = Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)?;
    frontend.must(&M::AddMemReg(other.region()), &[other.file.as_fd()])?;
    for _ in 0..10 {
        queue.echo(&guest, b"all well")?;
        frontend.must(&M::RemMemReg(guest.region()), &[])?;
        assert!(queue.err.drain(), "err is signalled");
        queue.add(&guest, 0, b"meantime")?;
        queue.publish();
        frontend.must(&M::AddMemReg(guest.region()), &[guest.file.as_fd()])?;
        queue.wait(1)?;
    }
    Ok(())
}

#[test]
fn configuration_is_read_at_both_offsets_and_padded_with_zeros() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    served.device.change_config(0x1122_3344);
    for offset in [0, 0x100] {
        let data = vec![0xff; 60];
        let config = vhost_user_protocol::ConfigSpace {
            offset,
            size: 60,
            flags: 0,
            data,
        };
        let reply = frontend.get(&M::GetConfig(config))?;
        let vhost_user_protocol::Reply::Config(config) = reply else {
            anyhow::bail!("{reply:?}");
        };
        assert_eq!((config.offset, config.data.len()), (offset, 60));
        assert_eq!(config.data[8..12], [0x44, 0x33, 0x22, 0x11]);
        assert!(config.data[16..].iter().all(|byte| *byte == 0));
    }
    Ok(())
}

#[test]
fn configuration_is_written_where_the_driver_may() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    let write = |offset, data: &[u8]| {
        let size = data.len() as u32;
        M::SetConfig(vhost_user_protocol::ConfigSpace {
            offset,
            size,
            flags: 0,
            data: data.to_vec(),
        })
    };
    frontend.must(&write(2, &[7]), &[])?;
    assert_ne!(frontend.ask(&write(8, &[7]), &[])?, 0);
    frontend.must(&write(8, &[0; 8]), &[])?;
    assert_ne!(frontend.ask(&write(12, &[0; 8]), &[])?, 0);
    assert_ne!(frontend.ask(&write(u32::MAX, &[0; 8]), &[])?, 0);
    Ok(())
}

#[test]
fn configuration_change_reaches_the_front_end() -> Result<()> {
    use std::io::Read as _;
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_read_timeout(Some(protocol::DEADLINE))?;
    frontend.must(&M::SetBackendReqFd, &[theirs.as_fd()])?;
    drop(theirs);
    served.device.change_config(1);
    let mut bytes = [0; 12];
    ours.read_exact(&mut bytes)?;
    let expected = vhost_user_protocol::BackendMessage::ConfigChange.encode(false);
    assert_eq!(bytes.as_slice(), expected);
    // Nobody reads any more: the device must not be held up, nor fail when the socket is gone.
    for round in 0..5000 {
        served.device.change_config(round);
    }
    drop(ours);
    served.device.change_config(2);
    frontend.number(&M::GetStatus)?;
    Ok(())
}

#[test]
fn malformed_ring_needs_a_reset_and_the_other_queue_goes_on() -> Result<()> {
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let served = Served::new(2)?;
        let (mut frontend, guest, mut queue) = running(&served, shape)?;
        let mut other = guest.queue(1, shape)?;
        frontend.start_queue(&other, fresh_base(shape))?;
        queue.echo(&guest, b"all well")?;
        break_ring(&guest, &mut queue, shape)?;
        assert!(eventually(|| queue.err.drain()), "err is signalled");
        assert!(eventually(|| served.server.statistics().queues[0]
            .ring_errors
            == 1));
        let needs_reset = u64::from(virtio_spec::status::DEVICE_NEEDS_RESET);
        assert!(eventually(|| {
            frontend
                .number(&M::GetStatus)
                .is_ok_and(|status| status & needs_reset != 0)
        }));
        other.echo(&guest, b"not hurt")?;
        // The driver resets the device and starts over.
        frontend.must(&M::ResetDevice, &[])?;
        assert_eq!(frontend.number(&M::GetStatus)? & needs_reset, 0);
        let mut again = guest.queue(0, shape)?;
        frontend.must(&M::SetFeatures(shape.features | 1 << 30), &[])?;
        frontend.start_queue(&again, fresh_base(shape))?;
        again.echo(&guest, b"restored")?;
    }
    Ok(())
}

/// Makes the ring malformed in a way that the device sees at its next look: a descriptor of length zero.
fn break_ring(guest: &Guest, queue: &mut GuestQueue, shape: QueueShape) -> Result<()> {
    queue.add(guest, 0, b"ill-fate")?;
    // Lengths stand at offset 8 of a descriptor in both formats.
    for slot in 0..u64::from(shape.size) {
        guest
            .memory
            .write(queue.guest_areas[0] + slot * 16 + 8, &[0; 4])?;
    }
    let _ = queue.driver.publish();
    queue.kick.notify();
    Ok(())
}

#[test]
fn panic_of_a_handler_stops_its_queue_only() -> Result<()> {
    let served = Served::new(2)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    let mut other = guest.queue(1, QueueShape::SPLIT)?;
    frontend.start_queue(&other, 0)?;
    queue.add(&guest, 0, protocol::PANIC_MARK)?;
    queue.publish();
    assert!(eventually(
        || served.server.statistics().queues[0].panics == 1
    ));
    other.echo(&guest, b"not hurt")?;
    assert!(eventually(|| queue.err.drain()));
    frontend.number(&M::GetFeatures)?;
    Ok(())
}

#[test]
fn guest_resets_and_rebinds_a_hundred_times() -> Result<()> {
    // REGRESSIONS row 44: the used index must be read anew at each start.
    for shape in [QueueShape::SPLIT, QueueShape::PACKED] {
        let served = Served::new(1)?;
        let guest = Guest::new()?;
        let mut frontend = served.connect()?;
        frontend.negotiate(shape.features)?;
        frontend.set_memory(&guest)?;
        for round in 0..100_u64 {
            let mut queue = guest.queue(0, shape)?;
            frontend.start_queue(&queue, fresh_base(shape))?;
            for _ in 0..round % 7 + 1 {
                queue.echo(&guest, &round.to_le_bytes())?;
            }
            frontend.stop_queue(&queue)?;
        }
    }
    Ok(())
}

#[test]
fn call_descriptor_is_replaced_while_the_ring_runs() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    for _ in 0..20 {
        queue.call = host_os::EventFd::new()?;
        let message = M::SetVringCall(VringFd::new(0, true));
        frontend.must(&message, &[queue.call.as_fd()])?;
        queue.echo(&guest, b"new bell")?;
    }
    Ok(())
}

#[test]
fn ring_without_kick_descriptor_is_polled() -> Result<()> {
    let served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    frontend.must(&M::SetVringKick(VringFd::new(0, false)), &[])?;
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        queue.echo(&guest, b"no bell.")?;
    }
    Ok(())
}

#[test]
fn second_front_end_waits_until_the_first_has_gone() -> Result<()> {
    let served = Served::new(1)?;
    let (first, _guest, _queue) = running(&served, QueueShape::SPLIT)?;
    let mut second = served.connect()?;
    second.send(&M::GetFeatures, &[])?;
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(served.server.statistics().session.sessions, 1);
    drop(first);
    assert!(
        second
            .reply(vhost_user_protocol::Request::GetFeatures)
            .is_ok()
    );
    Ok(())
}

#[test]
fn disconnect_drains_what_is_in_flight_and_resets_the_device() -> Result<()> {
    let served = Served::new(1)?;
    let (frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    let resets = served.device.resets();
    served.device.hold(true);
    queue.add(&guest, 0, b"last one")?;
    queue.publish();
    assert!(eventually(
        || served.server.statistics().queues[0].taken == 1
    ));
    drop(frontend);
    queue.wait(1)?;
    assert!(eventually(|| served.device.resets() > resets));
    Ok(())
}

#[test]
fn shutdown_drains_and_returns() -> Result<()> {
    let mut served = Served::new(1)?;
    let (mut frontend, guest, mut queue) = running(&served, QueueShape::SPLIT)?;
    served.device.hold(true);
    queue.add(&guest, 0, b"last one")?;
    queue.publish();
    assert!(eventually(
        || served.server.statistics().queues[0].taken == 1
    ));
    served.shut_down();
    queue.wait(1)?;
    assert!(frontend.is_closed_by_server());
    Ok(())
}

#[test]
fn client_mode_connects_again_and_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("front.sock");
    let device = protocol::EchoDevice::new(1);
    let server = vhost_user_server::Server::new(device, vhost_user_server::Options::default())?;
    let handle = server.shutdown_handle();
    let theirs = path.clone();
    let thread = std::thread::spawn(move || server.serve_connecting(&theirs));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    for _ in 0..3 {
        let mut frontend = Frontend::new(listener.accept()?.0)?;
        frontend.negotiate(QueueShape::SPLIT.features)?;
    }
    handle.shutdown();
    assert!(thread.join().is_ok_and(|result| result.is_ok()));
    Ok(())
}

#[test]
fn device_state_survives_a_round_trip_and_bad_state_is_refused() -> Result<()> {
    use std::io::Read as _;
    use std::io::Write as _;
    use vhost_user_protocol::DeviceStatePhase;
    use vhost_user_protocol::DeviceStateTransfer;
    use vhost_user_protocol::TransferDirection;
    let transfer = |direction| {
        M::SetDeviceStateFd(DeviceStateTransfer {
            direction,
            phase: DeviceStatePhase::Stopped,
        })
    };
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    served.device.change_config(0xabcd);
    let (mut reader, writer) = std::io::pipe()?;
    assert_eq!(
        frontend.ask(&transfer(TransferDirection::Save), &[writer.as_fd()])?,
        0x100
    );
    drop(writer);
    let mut state = Vec::new();
    reader.read_to_end(&mut state)?;
    assert_eq!(frontend.number(&M::CheckDeviceState)?, 0);
    served.device.change_config(0);
    for (bytes, good) in [(&state[..7], false), (&state[..], true)] {
        let (reader, mut writer) = std::io::pipe()?;
        frontend.ask(&transfer(TransferDirection::Load), &[reader.as_fd()])?;
        writer.write_all(bytes)?;
        drop(writer);
        assert_eq!(frontend.number(&M::CheckDeviceState)? == 0, good);
    }
    let mut config = [0; 16];
    device_model::Device::read_config(&*served.device, 0, &mut config);
    assert_eq!(config[8..10], [0xcd, 0xab]);
    assert_ne!(
        frontend.number(&M::CheckDeviceState)?,
        0,
        "no transfer, nothing to check"
    );
    Ok(())
}

#[test]
fn features_that_were_not_offered_are_refused() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    assert_ne!(frontend.ask(&M::SetFeatures(1 << 50), &[])?, 0);
    let ok = u64::from(virtio_spec::status::FEATURES_OK);
    frontend.must(&M::SetStatus(ok), &[])?;
    assert_eq!(frontend.number(&M::GetStatus)? & ok, 0);
    assert_ne!(frontend.ask(&M::SetProtocolFeatures(1 << 50), &[])?, 0);
    assert_eq!(frontend.number(&M::GetQueueNum)?, 1);
    Ok(())
}
