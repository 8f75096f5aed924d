//! Death between any two stores of a back-end (REGRESSIONS.md row 46). One rule: a process is stepped through what it
//! does with a ring and its in-flight record; after each store that it makes, another one must find every request once.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use device_model::InflightRegion;
use device_model::Queue;
use device_model::QueueCounters;
use device_model::QueueSetup;
use device_model::RingAddresses;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use guest_memory::SharedMemory;
use nix::sys::uio::pwrite;
use protocol::BackEnd;
use protocol::Orders;
use protocol::Stepped;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_spec::feature;
use virtqueue::ChainBatch;
use virtqueue::DriverQueue;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::Rings;
use virtqueue::Segment;
use virtqueue::Token;

/// What the stepped process runs.
const BODY: &str = "back_end_that_is_stepped_through";
/// The ring's entries: few, so that a batch soon crosses the ring's end.
const SIZE: u16 = 8;
const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x5000_0000_0000;
/// Bytes of memory, and where in it the ring's three areas are.
const RAM: usize = 4096;
const AREAS: [u64; 3] = [0, 1024, 2048];

/// How a queue is set up and used.
#[derive(Debug, Clone, Copy)]
struct Shape {
    format: Format,
    in_order: bool,
    /// Descriptors of each chain.
    chain: usize,
}

impl Shape {
    fn config(self) -> Result<QueueConfig> {
        let mut features = feature::VERSION_1 | feature::RING_EVENT_IDX;
        if self.format == Format::Packed {
            features |= feature::RING_PACKED;
        }
        if self.in_order {
            features |= feature::IN_ORDER;
        }
        Ok(QueueConfig::from_features(SIZE, features)?)
    }

    /// The vring base of the very first start; a front-end whose back-end died knows no other.
    fn base(self) -> u32 {
        match self.format {
            Format::Split => 0,
            Format::Packed => 0x8000_8000,
        }
    }

    fn area_size(self) -> usize {
        InflightRegion::size(1, SIZE, Some(self.format)) as usize
    }
}

/// All that outlives a back-end, except for the driver.
struct Shared {
    shape: Shape,
    ram: OwnedFd,
    area: OwnedFd,
    memory: Arc<GuestMemory>,
    record: SharedMemory,
    region: InflightRegion,
}

impl Shared {
    fn new(shape: Shape) -> Result<Self> {
        let file = |name: &str, size: usize| host_os::memfd::create(name, size as u64);
        Self::map(shape, file("ram", RAM)?, file("area", shape.area_size())?)
    }

    fn map(shape: Shape, ram: OwnedFd, area: OwnedFd) -> Result<Self> {
        let spec = RegionSpec {
            guest_addr: GUEST,
            size: RAM as u64,
            user_addr: USER,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(spec, ram.try_clone()?)])?;
        let size = shape.area_size() as u64;
        let region = InflightRegion::from_fd(area.as_fd(), 0, size, 1, SIZE)?;
        let record = SharedMemory::from_fd(area.as_fd(), 0, size)?;
        Ok(Self {
            shape,
            ram,
            area,
            memory: Arc::new(memory),
            record,
            region,
        })
    }

    fn attach(&self) -> Result<Queue> {
        let [descriptors, driver, device] = AREAS.map(|at| USER + at);
        Ok(Queue::new(QueueSetup {
            config: self.shape.config()?,
            addresses: RingAddresses {
                descriptors,
                driver,
                device,
                log: None,
            },
            base: self.shape.base(),
            memory: self.memory.clone(),
            record: Some(self.region.record(0, self.shape.format)?),
            call: None,
            counters: Arc::new(QueueCounters::default()),
        })?)
    }

    /// What a death at this moment leaves behind.
    fn save(&self, into: &mut Vec<u8>) -> Result<()> {
        into.resize(RAM + self.shape.area_size(), 0);
        let (ram, area) = into.split_at_mut(RAM);
        self.memory.read(GUEST, ram)?;
        for (at, word) in (0..).step_by(8).zip(area.chunks_exact_mut(8)) {
            word.copy_from_slice(&self.record.load_u64(at, Ordering::Acquire).to_ne_bytes());
        }
        Ok(())
    }

    fn restore(&self, left: &[u8]) -> Result<()> {
        let (ram, area) = left.split_at(RAM);
        ensure!(pwrite(&self.ram, ram, 0)? == ram.len());
        ensure!(pwrite(&self.area, area, 0)? == area.len());
        Ok(())
    }
}

/// Takes up to `max` chains.
fn take(queue: &mut Queue, max: usize) -> Result<Vec<Token>> {
    let mut batch = ChainBatch::with_capacity(16, 64);
    let mut all = Vec::new();
    while all.len() < max {
        batch.clear();
        if queue.take(&mut batch, max - all.len())? == 0 {
            break;
        }
        all.extend(batch.iter().map(|chain| chain.token));
    }
    Ok(all)
}

/// What the stepped back-end does with the chains that are there: some go back, some come out of order, and there are
/// two publications.
fn serve(queue: &mut Queue, batch: &mut ChainBatch) -> Result<()> {
    queue.take(batch, 16)?;
    queue.give_back(batch, 1)?;
    queue.take(batch, 16)?;
    for at in (1..batch.len()).rev().chain([0]) {
        let token = batch.get(at).context("no such chain")?.token;
        queue.complete(token, 1)?;
        if at <= 1 {
            queue.publish();
        }
    }
    Ok(())
}

/// A driver on shared memory, with what it lent.
struct World {
    shared: Shared,
    driver: DriverQueue,
    lent: BTreeSet<u16>,
}

impl World {
    /// A ring that has gone `rounds` chains along, with as many chains waiting as it holds.
    fn after(shape: Shape, rounds: usize) -> Result<Self> {
        let shared = Shared::new(shape)?;
        let config = shape.config()?;
        let layout = config.layout();
        let area = |at: usize, len: usize| {
            let addr = USER + AREAS[at];
            shared
                .memory
                .user_ring(addr, len)
                .context("no room for rings")
        };
        let rings = Rings {
            descriptors: area(0, layout.descriptors.size)?,
            driver: area(1, layout.driver.size)?,
            device: area(2, layout.device.size)?,
        };
        let driver = DriverQueue::new(config, rings)?;
        let lent = BTreeSet::new();
        let mut world = Self {
            shared,
            driver,
            lent,
        };
        let mut queue = world.shared.attach()?;
        for _ in 0..rounds {
            world.round(&mut queue)?;
        }
        world.fill()?;
        Ok(world)
    }

    fn submit(&mut self) -> Result<()> {
        let segment = Segment {
            addr: GUEST,
            len: 16,
        };
        let readable = vec![segment; self.shared.shape.chain - 1];
        let id = self.driver.add(&readable, &[segment], None)?;
        ensure!(self.lent.insert(id), "id {id} is lent twice");
        let _ = self.driver.publish();
        Ok(())
    }

    /// Submits what there is room for.
    fn fill(&mut self) -> Result<()> {
        while usize::from(self.driver.free_descriptors()) >= self.shared.shape.chain {
            self.submit()?;
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        while let Some(used) = self.driver.pop()? {
            ensure!(self.lent.remove(&used.id), "id {} completed twice", used.id);
        }
        Ok(())
    }

    /// One request, alone.
    fn round(&mut self, queue: &mut Queue) -> Result<()> {
        self.submit()?;
        let tokens = take(queue, 16)?;
        ensure!(tokens.len() == 1, "{} instead of one", tokens.len());
        queue.complete(tokens[0], 1)?;
        queue.publish();
        self.reap()?;
        ensure!(self.lent.is_empty(), "not completed");
        Ok(())
    }

    /// A successor of the back-end that died and left `left` behind finds everything once. A driver that is `busy` uses
    /// what came back before the successor is there.
    fn recovers(&mut self, left: &[u8], busy: bool) -> Result<()> {
        self.shared.restore(left)?;
        if busy {
            self.reap()?;
            self.fill()?;
        }
        let mut queue = self.shared.attach()?;
        for token in take(&mut queue, 64)?.into_iter().rev() {
            queue.complete(token, 1)?;
        }
        queue.publish();
        self.reap()?;
        ensure!(self.lent.is_empty(), "{:?} are lost", self.lent);
        // And both sides stand at the same place.
        for _ in 0..2 * SIZE {
            self.round(&mut queue)?;
        }
        Ok(())
    }
}

/// Not a test of its own: the process that is stepped through.
#[test]
#[ignore = "run by the other tests, as a process"]
fn back_end_that_is_stepped_through() -> Result<()> {
    let path = BackEnd::socket()?;
    let folder = path.parent().context("a folder")?;
    let mut orders = Orders::from(&path)?;
    while let Some(order) = orders.receive()? {
        let words: Vec<&str> = order.split(' ').collect();
        let [format, in_order, chain, what] = words[..] else {
            anyhow::bail!("{order}");
        };
        let shape = Shape {
            format: if format == "packed" {
                Format::Packed
            } else {
                Format::Split
            },
            in_order: in_order == "in-order",
            chain: chain.parse()?,
        };
        let shared = open(shape, folder)?;
        if what == "attach" {
            orders.carry_out(|| shared.attach())??;
            continue;
        }
        let mut queue = shared.attach()?;
        let mut batch = ChainBatch::with_capacity(16, 64);
        orders.carry_out(|| serve(&mut queue, &mut batch))??;
    }
    Ok(())
}

fn open(shape: Shape, folder: &Path) -> Result<Shared> {
    let file = |name: &str| -> Result<OwnedFd> {
        let mut options = File::options();
        let file = options.read(true).write(true).open(folder.join(name))?;
        Ok(file.into())
    };
    Shared::map(shape, file("ram")?, file("area")?)
}

/// The stepped process and the memory that it works on.
struct Victim {
    stepped: Stepped,
    folder: tempfile::TempDir,
}

impl Victim {
    /// `None` where processes cannot be stepped through.
    fn new() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("orders.sock");
        let listener = UnixListener::bind(&path)?;
        let child = BackEnd::child(BODY, &path)?;
        let Some(stepped) = Stepped::attach(child, &listener)? else {
            return Ok(None);
        };
        Ok(Some(Self { stepped, folder }))
    }

    /// Everything that a death during `what` may leave behind, starting from `before`: one state after each store.
    fn states(&mut self, shape: Shape, before: &[u8], what: &str) -> Result<Vec<Vec<u8>>> {
        let (ram, area) = before.split_at(RAM);
        std::fs::write(self.folder.path().join("ram"), ram)?;
        std::fs::write(self.folder.path().join("area"), area)?;
        let shared = open(shape, self.folder.path())?;
        let mut states: Vec<Vec<u8>> = Vec::new();
        let (mut now, mut outcome) = (Vec::new(), Ok(()));
        let format = match shape.format {
            Format::Split => "split",
            Format::Packed => "packed",
        };
        let order = if shape.in_order { "in-order" } else { "any" };
        let order = format!("{format} {order} {} {what}", shape.chain);
        self.stepped.order(&order, || {
            if outcome.is_ok() {
                outcome = shared.save(&mut now);
            }
            if states.last() != Some(&now) {
                states.push(now.clone());
            }
        })?;
        outcome.map(|()| states)
    }
}

fn shapes(format: Format) -> impl Iterator<Item = Shape> {
    let orders = [false, true].into_iter();
    orders.flat_map(move |in_order| {
        (1..=3).map(move |chain| Shape {
            format,
            in_order,
            chain,
        })
    })
}

/// Steps through a batch at every position of the ring, and dies after each store.
fn dies_everywhere(victim: &mut Victim, format: Format) -> Result<()> {
    for shape in shapes(format) {
        // Chains of three come to every position of two laps, and only they leave what a lap before could be mistaken for.
        for rounds in (0..2 * usize::from(SIZE)).step_by(4 - shape.chain) {
            let mut before = Vec::new();
            World::after(shape, rounds)?.shared.save(&mut before)?;
            let states = victim.states(shape, &before, "serve")?;
            ensure!(states.len() > 10, "{} stores were seen", states.len());
            for (stores, left) in states.iter().enumerate() {
                for busy in [false, true] {
                    let mut world = World::after(shape, rounds)?;
                    world.recovers(left, busy).with_context(|| {
                        format!("{shape:?}, {rounds} chains along, dead after {stores} stores, driver busy: {busy}")
                    })?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn death_after_any_store_to_a_split_ring_or_its_record_loses_and_doubles_nothing() -> Result<()> {
    let Some(mut victim) = Victim::new()? else {
        println!(
            "SKIPS ITSELF death_after_any_store_to_a_split_ring_or_its_record_loses_and_doubles_nothing: no ptrace"
        );
        return Ok(());
    };
    dies_everywhere(&mut victim, Format::Split)
}

#[test]
fn death_after_any_store_to_a_packed_ring_or_its_record_loses_and_doubles_nothing() -> Result<()> {
    let Some(mut victim) = Victim::new()? else {
        println!(
            "SKIPS ITSELF death_after_any_store_to_a_packed_ring_or_its_record_loses_and_doubles_nothing: no ptrace"
        );
        return Ok(());
    };
    dies_everywhere(&mut victim, Format::Packed)
}

#[test]
fn death_of_the_successor_while_it_recovers_loses_and_doubles_nothing() -> Result<()> {
    let Some(mut victim) = Victim::new()? else {
        println!(
            "SKIPS ITSELF death_of_the_successor_while_it_recovers_loses_and_doubles_nothing: no ptrace"
        );
        return Ok(());
    };
    for format in [Format::Split, Format::Packed] {
        let shape = Shape {
            format,
            in_order: false,
            chain: 3,
        };
        // The batch crosses the ring's end.
        let rounds = 2;
        let mut before = Vec::new();
        World::after(shape, rounds)?.shared.save(&mut before)?;
        for first in victim.states(shape, &before, "serve")? {
            for left in victim.states(shape, &first, "attach")? {
                let mut world = World::after(shape, rounds)?;
                world
                    .recovers(&left, false)
                    .with_context(|| format!("{shape:?}"))?;
            }
        }
    }
    Ok(())
}
