//! The server against rust-vmm's `vhost` front-end, which is not our code. One rule: whatever that front-end can ask for is
//! asked for here.

use anyhow::Context as _;
use anyhow::Result;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use std::os::fd::AsRawFd;
use vhost::VhostBackend;
use vhost::VhostUserDirtyLogRegion;
use vhost::VhostUserMemoryRegionInfo;
use vhost::VringConfigData;
use vhost::vhost_user::Frontend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vmm_sys_util::eventfd::EventFd;

/// A foreign eventfd and ours for the same counter. It travels over a socket, which needs no raw descriptors.
fn event() -> Result<(EventFd, host_os::EventFd)> {
    use std::os::fd::AsFd as _;
    use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;
    let foreign = EventFd::new(0)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    theirs.send_with_fd(&b"x"[..], foreign.as_raw_fd())?;
    let mut fds = Vec::new();
    host_os::socket::receive(ours.as_fd(), &mut [0], &mut fds)?;
    let fd = fds.pop().context("no descriptor")?;
    Ok((foreign, host_os::EventFd::from_peer(fd)?))
}

fn region(guest: &Guest) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest.spec.guest_addr,
        memory_size: guest.spec.size,
        userspace_addr: guest.spec.user_addr,
        mmap_offset: 0,
        mmap_handle: guest.file.as_raw_fd(),
    }
}

fn connect(served: &Served, features: u64) -> Result<Frontend> {
    let mut frontend = Frontend::from_stream(served.connect_stream()?, 2);
    frontend.set_owner()?;
    let offered = frontend.get_features()?;
    let protocol = frontend.get_protocol_features()?;
    frontend.set_protocol_features(protocol)?;
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(offered & (features | 1 << 30))?;
    Ok(frontend)
}

fn start(frontend: &mut Frontend, queue: &mut GuestQueue, base: u16) -> Result<()> {
    let index = usize::from(queue.index);
    let [descriptors, driver, device] = queue.user_areas;
    frontend.set_vring_num(index, queue.shape.size)?;
    frontend.set_vring_base(index, base)?;
    let addresses = VringConfigData {
        queue_max_size: queue.shape.size,
        queue_size: queue.shape.size,
        flags: 0,
        desc_table_addr: descriptors,
        used_ring_addr: device,
        avail_ring_addr: driver,
        log_addr: None,
    };
    frontend.set_vring_addr(index, &addresses)?;
    let (err, call, kick) = (event()?, event()?, event()?);
    (queue.err, queue.call, queue.kick) = (err.1, call.1, kick.1);
    frontend.set_vring_err(index, &err.0)?;
    frontend.set_vring_call(index, &call.0)?;
    frontend.set_vring_kick(index, &kick.0)?;
    frontend.set_vring_enable(index, true)?;
    Ok(())
}

#[test]
fn foreign_front_end_runs_both_ring_formats() -> Result<()> {
    for (shape, base) in [(QueueShape::SPLIT, 0), (QueueShape::PACKED, 0x8000)] {
        let served = Served::new(2)?;
        let guest = Guest::new()?;
        let mut queue = guest.queue(1, shape)?;
        let mut frontend = connect(&served, shape.features)?;
        assert_eq!(frontend.get_queue_num()?, 2);
        frontend.set_mem_table(&[region(&guest)])?;
        start(&mut frontend, &mut queue, base)?;
        for _ in 0..100 {
            queue.echo(&guest, b"stranger")?;
        }
        // This front-end's bases have 16 bits when they are set.
        let base = frontend.get_vring_base(1)?;
        start(&mut frontend, &mut queue, base as u16)?;
        queue.echo(&guest, b"goes on.")?;
        frontend.set_vring_enable(1, false)?;
        frontend.set_vring_enable(1, true)?;
        queue.echo(&guest, b"goes on.")?;
        frontend.reset_owner()?;
    }
    Ok(())
}

#[test]
fn foreign_front_end_is_offered_what_it_knows() -> Result<()> {
    use VhostUserProtocolFeatures as P;
    let served = Served::new(1)?;
    let mut frontend = Frontend::from_stream(served.connect_stream()?, 1);
    frontend.set_owner()?;
    frontend.get_features()?;
    let offered = frontend.get_protocol_features()?;
    let expected = P::MQ
        | P::LOG_SHMFD
        | P::REPLY_ACK
        | P::BACKEND_REQ
        | P::CONFIG
        | P::INFLIGHT_SHMFD
        | P::RESET_DEVICE
        | P::CONFIGURE_MEM_SLOTS
        | P::STATUS
        | P::DEVICE_STATE
        | P::GET_VRING_BASE_INFLIGHT;
    assert_eq!(offered, expected);
    Ok(())
}

#[test]
fn foreign_front_end_moves_memory_log_and_record() -> Result<()> {
    let served = Served::new(1)?;
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = connect(&served, QueueShape::SPLIT.features)?;
    assert!(frontend.get_max_mem_slots()? >= 32);
    frontend.add_mem_region(&region(&guest))?;
    let wanted = VhostUserInflight::new(0, 0, 1, 64);
    let (area, file) = frontend.get_inflight_fd(&wanted)?;
    frontend.set_inflight_fd(&area, file.as_raw_fd())?;
    start(&mut frontend, &mut queue, 0)?;
    queue.echo(&guest, b"recorded")?;
    let log = host_os::memfd::create("log", 4096)?;
    let base = VhostUserDirtyLogRegion {
        mmap_size: 4096,
        mmap_offset: 0,
        mmap_handle: log.as_raw_fd(),
    };
    frontend.set_log_base(0, Some(base))?;
    let extra = Guest::with_region(1 << 26, 1 << 41, 1 << 20)?;
    frontend.add_mem_region(&region(&extra))?;
    queue.echo(&guest, b"more mem")?;
    frontend.remove_mem_region(&region(&extra))?;
    queue.echo(&guest, b"less mem")?;
    frontend.get_vring_base(0)?;
    frontend.reset_device()?;
    Ok(())
}

#[test]
fn foreign_front_end_reads_and_writes_the_configuration() -> Result<()> {
    let served = Served::new(1)?;
    let mut frontend = connect(&served, QueueShape::SPLIT.features)?;
    frontend.set_config(0, VhostUserConfigFlags::WRITABLE, &[1, 2, 3, 4])?;
    for offset in [0, 0x100] {
        let (_, bytes) = frontend.get_config(offset, 8, VhostUserConfigFlags::WRITABLE, &[0; 8])?;
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0, 0]);
    }
    assert!(
        frontend
            .set_config(8, VhostUserConfigFlags::WRITABLE, &[9])
            .is_err()
    );
    Ok(())
}

#[test]
fn foreign_front_end_saves_and_loads_device_state() -> Result<()> {
    use std::io::Read as _;
    use vhost::vhost_user::message::VhostTransferStateDirection as Direction;
    use vhost::vhost_user::message::VhostTransferStatePhase as Phase;
    let served = Served::new(1)?;
    let frontend = connect(&served, QueueShape::SPLIT.features)?;
    served.device.change_config(77);
    let (mut reader, writer) = std::io::pipe()?;
    let back = frontend.set_device_state_fd(Direction::SAVE, Phase::STOPPED, writer.into())?;
    assert!(back.is_none());
    let mut state = Vec::new();
    reader.read_to_end(&mut state)?;
    assert_eq!(state.len(), 16);
    frontend.check_device_state()?;
    let (reader, mut writer) = std::io::pipe()?;
    frontend.set_device_state_fd(Direction::LOAD, Phase::STOPPED, reader.into())?;
    std::io::Write::write_all(&mut writer, &state)?;
    drop(writer);
    frontend.check_device_state()?;
    Ok(())
}
