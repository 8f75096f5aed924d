//! A guest without a virtual machine: gives pages of a shared memory to the daemon, takes them back and reports them.
//!
//! One rule: as many messages on their way as a driver has, and each is acknowledged before it counts.

use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature as balloon;
use virtio_spec::device_id;
use virtio_spec::feature;
use virtqueue::Segment;

use crate::balloon::BalloonArgs;
use crate::balloon::Cell;
use crate::balloon::order::Order;
use crate::balloon::server::OURS;
use crate::balloon::server::Server;
use crate::cpu;
use crate::wire::Wire;
use crate::wire::WireSpec;

/// Messages on their way at once.
const BATCHES: usize = 8;
/// Entries of the rings.
const QUEUE: u16 = 128;
/// Blocks of one report, and their size: what Linux reports at most.
const REPORT: usize = 32;
const BLOCK: u64 = 4 << 20;
/// Queues that are started, by their numbers with every feature present: inflate, deflate, reports. Nobody asks for
/// statistics.
const STARTED: [u16; 3] = [0, 1, 4];
const REPORTS: usize = 2;
/// A daemon that acknowledges nothing for this long has lost messages.
const STALL: Duration = Duration::from_secs(20);

struct Guest {
    wire: Wire,
    pid: u32,
    /// Page number of the first page.
    first: u64,
    pages: u64,
    batch: usize,
    /// Slots of each chain id.
    slots: Vec<usize>,
}

/// What one part cost.
struct Cost {
    cpu: Duration,
    wall: Duration,
}

/// Measures one order of pages on a fresh connection.
pub fn run(
    server: &Server,
    args: &BalloonArgs,
    order: Order,
    take: &mut impl FnMut(Cell),
) -> Result<()> {
    let mut guest = Guest::connect(server, args)?;
    let list = order.pages(guest.first, guest.pages);
    let gib = list.len() as f64 * PAGE_SIZE as f64 / f64::from(1 << 30);
    let cell = |what, cost: &Cost, before: u64, after: u64| Cell {
        what,
        order: order.name(),
        server: OURS,
        gib,
        cpu_s_per_gib: cost.cpu.as_secs_f64() / gib,
        wall_s_per_gib: cost.wall.as_secs_f64() / gib,
        blocks_mib: (after.cast_signed() - before.cast_signed()) >> 20,
    };
    guest.touch();
    let full = guest.resident()?;
    let inflate = guest.measure(|guest| guest.send(0, &list))?;
    let empty = guest.resident()?;
    ensure!(
        empty < full && full - empty >= list.len() as u64 * PAGE_SIZE * 9 / 10,
        "inflating {} pages gave back {} of {full} bytes",
        list.len(),
        full.saturating_sub(empty)
    );
    take(cell("inflate", &inflate, full, empty));
    let deflate = guest.measure(|guest| guest.send(1, &list))?;
    take(cell("deflate", &deflate, empty, guest.resident()?));
    if order == Order::Ascending {
        guest.touch();
        let full = guest.resident()?;
        let report = guest.measure(Guest::report)?;
        take(cell("report", &report, full, guest.resident()?));
    }
    Ok(())
}

impl Guest {
    fn connect(server: &Server, args: &BalloonArgs) -> Result<Self> {
        let mut features = feature::VERSION_1
            | feature::RING_EVENT_IDX
            | balloon::MUST_TELL_HOST
            | balloon::STATS_VQ
            | balloon::PAGE_REPORTING;
        if args.packed {
            features |= feature::RING_PACKED;
        }
        let messages = BATCHES * usize::from(args.batch) * 4;
        let messages = messages.next_multiple_of(2 << 20);
        let bytes = usize::try_from(args.mib.next_multiple_of(2) << 20)?;
        let wire = Wire::connect(&WireSpec {
            socket: &server.socket,
            device_id: device_id::BALLOON,
            config_len: 16,
            features,
            queue_count: 5,
            started: &STARTED,
            queue_size: QUEUE,
            buffers: messages + bytes + (4 << 20),
        })?;
        ensure!(
            wire.features & balloon::PAGE_REPORTING != 0,
            "the daemon takes no reports"
        );
        let first = (wire.buffers + messages as u64).next_multiple_of(4 << 20) / PAGE_SIZE;
        Ok(Self {
            pid: server.pid,
            first,
            pages: bytes as u64 / PAGE_SIZE,
            batch: usize::from(args.batch),
            slots: vec![0; usize::from(QUEUE)],
            wire,
        })
    }

    /// Writes to every page.
    fn touch(&self) {
        for page in self.first..self.first + self.pages {
            self.wire.put(page * PAGE_SIZE, &[1]);
        }
    }

    /// Bytes that the kernel has for the memory.
    #[expect(unsafe_code, reason = "a raw descriptor")]
    fn resident(&self) -> Result<u64> {
        // SAFETY: the descriptor is open as long as the memory is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.wire.memory.fd()) };
        Ok(nix::sys::stat::fstat(fd)?.st_blocks as u64 * 512)
    }

    fn measure(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Cost> {
        let before = cpu::time(self.pid)?;
        let start = Instant::now();
        work(self)?;
        let wall = start.elapsed();
        Ok(Cost {
            cpu: cpu::time(self.pid)? - before,
            wall,
        })
    }

    /// Sends all page numbers in messages through the inflate or the deflate queue.
    fn send(&mut self, lane: usize, list: &[u32]) -> Result<()> {
        let mut free: Vec<usize> = (0..BATCHES).collect();
        for pages in list.chunks(self.batch) {
            while free.is_empty() {
                self.wait(lane, &mut free)?;
            }
            let slot = free.pop().context("a free slot")?;
            let addr = self.wire.buffers + (slot * self.batch * 4) as u64;
            let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
            self.wire.put(addr, &bytes);
            let message = Segment {
                addr,
                len: bytes.len() as u32,
            };
            self.add(lane, slot, &[message], &[])?;
        }
        while free.len() < BATCHES {
            self.wait(lane, &mut free)?;
        }
        Ok(())
    }

    /// Reports all pages in large blocks.
    fn report(&mut self) -> Result<()> {
        let start = self.first * PAGE_SIZE;
        let end = start + self.pages * PAGE_SIZE;
        let blocks: Vec<Segment> = (start..end)
            .step_by(BLOCK as usize)
            .map(|addr| Segment {
                addr,
                len: (end - addr).min(BLOCK) as u32,
            })
            .collect();
        let mut free = vec![0];
        for blocks in blocks.chunks(REPORT) {
            while free.is_empty() {
                self.wait(REPORTS, &mut free)?;
            }
            free.clear();
            self.add(REPORTS, 0, &[], blocks)?;
        }
        while free.is_empty() {
            self.wait(REPORTS, &mut free)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        lane: usize,
        slot: usize,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<()> {
        let lane = &mut self.wire.lanes[lane];
        let id = lane.ring.add(readable, writable, None);
        let id = id.ok().context("the ring is full")?;
        self.slots[usize::from(id)] = slot;
        lane.publish();
        Ok(())
    }

    /// Waits for an acknowledgement.
    fn wait(&mut self, lane: usize, free: &mut Vec<usize>) -> Result<()> {
        let lane = &mut self.wire.lanes[lane];
        let start = Instant::now();
        loop {
            let mut any = false;
            while let Some(used) = lane.ring.pop()? {
                free.push(self.slots[usize::from(used.id)]);
                any = true;
            }
            if any {
                return Ok(());
            }
            if start.elapsed() > STALL {
                bail!("the daemon acknowledges nothing");
            }
            std::hint::spin_loop();
        }
    }
}
