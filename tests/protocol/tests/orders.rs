//! Every message in every wrong order (REGRESSIONS.md row 47), by seed. One rule: what is sent is random, what is expected
//! is one thing: the server goes on.

use anyhow::Result;
use host_os::EventFd;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::DeviceStatePhase;
use vhost_user_protocol::DeviceStateTransfer;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::MemoryRegion;
use vhost_user_protocol::TransferDirection;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is often near a border.
    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        let base = self.pick(&[0, 1, 2, 64, 0x100, 0xffff, 0x1_0000, u64::MAX, 1 << shift]);
        base.wrapping_add(self.below(3)).wrapping_sub(1)
    }
}

/// Payloads for one message, drawn anew each time.
struct Parts {
    state: VringState,
    ring: VringFd,
    region: MemoryRegion,
    inflight: Inflight,
    address: VringAddress,
    config: ConfigSpace,
    transfer: DeviceStateTransfer,
    features: u64,
}

impl Parts {
    fn draw(random: &mut Random, guest: &Guest, areas: [u64; 3]) -> Self {
        let index = random.pick(&[0, 0, 0, 1, 2, 0xff, 0x1_0000]);
        let mut region = guest.region();
        if random.below(3) == 0 {
            region = MemoryRegion {
                guest_addr: random.number() << 12,
                ..region
            };
        }
        let [descriptor, available, used] = areas;
        let used = used + random.pick(&[0, 0, 0, 1, 4096, 1 << 40]);
        let (flags, log) = (random.below(2) as u32, random.number());
        let size = random.pick(&[0, 4, 60, 256]);
        let offset = random.pick(&[0, 0x100, 8, u32::MAX]);
        let direction = random.pick(&[TransferDirection::Save, TransferDirection::Load]);
        let logging = QueueShape::SPLIT.features | 1 << 26 | 1 << 30;
        Self {
            state: VringState {
                index,
                num: random.pick(&[0, 1, 1, 64, 64, 128, 3, 0xffff]),
            },
            ring: VringFd(u64::from(index & 0xff) | random.pick(&[0, 0, 0, 0x100, 0x200])),
            region,
            inflight: Inflight {
                mmap_size: random.pick(&[0, 4096, 1 << 20, u64::MAX]),
                mmap_offset: random.pick(&[0, 0, 64, u64::MAX]),
                num_queues: random.pick(&[0, 1, 2, 3]),
                queue_size: random.pick(&[0, 64, 128, u16::MAX]),
                padding: [0; 4],
            },
            address: VringAddress {
                index,
                flags,
                descriptor,
                used,
                available,
                log,
            },
            config: ConfigSpace {
                offset,
                size,
                flags: 0,
                data: vec![7; size as usize],
            },
            transfer: DeviceStateTransfer {
                direction,
                phase: DeviceStatePhase::Stopped,
            },
            features: random.pick(&[
                QueueShape::SPLIT.features,
                QueueShape::PACKED.features,
                logging,
                0,
                u64::MAX,
            ]),
        }
    }
}

fn message(random: &mut Random, guest: &Guest, areas: [u64; 3]) -> M {
    let p = Parts::draw(random, guest, areas);
    match random.below(34) {
        0 => M::GetFeatures,
        1 => M::SetFeatures(p.features),
        2 => M::SetOwner,
        3 => M::ResetOwner,
        4 | 5 => M::SetMemTable(vec![p.region; random.pick(&[0, 1, 1, 1, 2])]),
        6 => M::SetLogBase(LogBase {
            size: random.number(),
            offset: random.pick(&[0, 4096]),
        }),
        7 => M::SetLogBaseAddress(random.number()),
        8 => M::SetLogFd,
        9 | 10 => M::SetVringNum(p.state),
        11 | 12 => M::SetVringAddr(p.address),
        13 => M::SetVringBase(p.state),
        14 => M::GetVringBase(p.state),
        15 | 16 => M::SetVringKick(p.ring),
        17 => M::SetVringCall(p.ring),
        18 => M::SetVringErr(p.ring),
        19 => M::GetProtocolFeatures,
        20 => M::SetProtocolFeatures(random.pick(&[0, 0x1b_b22b, u64::MAX])),
        21 => M::GetQueueNum,
        22 | 23 => M::SetVringEnable(VringState {
            num: random.below(3) as u32,
            ..p.state
        }),
        24 => M::SetBackendReqFd,
        25 => M::GetConfig(p.config),
        26 => M::SetConfig(p.config),
        27 => M::GetInflightFd(p.inflight, 24),
        28 => M::SetInflightFd(p.inflight),
        29 => random.pick_message(&[M::ResetDevice, M::GetMaxMemSlots, M::GetStatus]),
        30 => M::AddMemReg(p.region),
        31 => M::RemMemReg(p.region),
        32 => M::SetStatus(random.pick(&[0, 1, 3, 11, 15, 0x80, 0x100])),
        _ => random.pick_message(&[M::SetDeviceStateFd(p.transfer), M::CheckDeviceState]),
    }
}

impl Random {
    fn pick_message(&mut self, from: &[M]) -> M {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

fn descriptors(guest: &Guest) -> Result<Vec<OwnedFd>> {
    let (pipe, writer) = std::io::pipe()?;
    Ok(vec![
        guest.file.try_clone()?,
        EventFd::new()?.into(),
        pipe.into(),
        writer.into(),
        std::fs::File::open("/dev/null")?.into(),
    ])
}

/// One connection's worth of messages; the seed says which.
fn attack(served: &Served, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let guest = Guest::new()?;
    let queue = guest.queue(0, QueueShape::SPLIT)?;
    let fds = descriptors(&guest)?;
    let mut frontend = served.connect()?;
    for _ in 0..random.below(60) + 5 {
        let message = message(&mut random, &guest, queue.user_areas);
        let mut count = match message.fd_rule() {
            vhost_user_protocol::FdRule::Exactly(n) => n,
            vhost_user_protocol::FdRule::Optional => 1,
        };
        if random.below(8) == 0 {
            count = random.below(9) as usize;
        }
        let choice = random.pick(&[0, 0, 1, 1, 1, 2, 3, 4]);
        let with: Vec<BorrowedFd<'_>> = vec![fds[choice].as_fd(); count];
        if frontend
            .raw(&message.encode(random.below(4) == 0), &with)
            .is_err()
        {
            break;
        }
    }
    frontend.stream.shutdown(std::net::Shutdown::Write)?;
    anyhow::ensure!(
        frontend.is_closed_by_server(),
        "seed {seed}: the server hangs"
    );
    Ok(())
}

#[test]
fn random_orders_of_messages_leave_the_server_well() -> Result<()> {
    let served = Served::new(2)?;
    for seed in 0..400 {
        attack(&served, seed)?;
    }
    let guest = Guest::new()?;
    let mut queue = guest.queue(1, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    queue.echo(&guest, b"all well")
}

#[test]
fn random_bytes_leave_the_server_well() -> Result<()> {
    let served = Served::new(1)?;
    let mut random = Random(99);
    for _ in 0..200 {
        let mut frontend = served.connect()?;
        let length = random.below(300);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        if random.below(2) == 0 && bytes.len() >= 12 {
            // A plausible header, so that more than the framing is reached.
            bytes[..4].copy_from_slice(&(random.below(46) as u32).to_ne_bytes());
            bytes[4..8].copy_from_slice(&[9, 0, 0, 0]);
            bytes[8..12].copy_from_slice(&(random.below(64) as u32).to_ne_bytes());
        }
        let _ = frontend.raw(&bytes, &[]);
        let _ = frontend.stream.shutdown(std::net::Shutdown::Write);
        anyhow::ensure!(frontend.is_closed_by_server(), "the server hangs");
    }
    served.connect()?.negotiate(QueueShape::SPLIT.features)?;
    Ok(())
}
