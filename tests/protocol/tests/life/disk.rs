//! Disks: reads, writes, flushes, discards and zeroing on two queues, against a model of the disk.

use crate::Load;
use crate::all_live;
use crate::live;
use crate::vm::Terms;
use crate::vm::Vm;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use block_backend::BlockDevice;
use block_backend::BlockSpec;
use block_backend::CacheMode;
use block_backend::EngineChoice;
use nix::sys::statfs::TMPFS_MAGIC;
use protocol::Serving;
use std::collections::HashMap;
use std::path::Path;
use virtio_spec::block::feature;
use virtio_spec::block::request_type;
use virtqueue::Segment;

const QUEUES: u16 = 2;
/// Requests in flight on each queue.
const SLOTS: usize = 7;
/// Bytes that a slot's transfers move, and its place on the disk has.
const BYTES: usize = 8192;
const FEATURES: u64 = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES | feature::MQ;

/// The guest's pages of a slot: header and range, status, then data.
const PAGES: u64 = 4;

/// What one place of the disk holds, and whether its slot has a request in flight.
#[derive(Clone)]
struct Slot {
    /// `None` once it was given back: anything may be read there.
    content: Option<Vec<u8>>,
    request: u32,
}

struct Disk {
    slots: Vec<Slot>,
    /// By queue and id: the slot.
    flying: HashMap<(usize, u16), usize>,
    round: usize,
    logged: bool,
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..BYTES)
        .map(|at| (at.wrapping_mul(7) ^ at >> 8 ^ seed.wrapping_mul(131)) as u8)
        .collect()
}

impl Disk {
    fn new() -> Self {
        let slot = Slot {
            content: Some(vec![0; BYTES]),
            request: request_type::FLUSH,
        };
        Self {
            slots: vec![slot; SLOTS * usize::from(QUEUES)],
            flying: HashMap::new(),
            round: 0,
            logged: false,
        }
    }

    fn page(vm: &Vm, slot: usize, page: u64) -> u64 {
        vm.guest.buffer(slot as u64 * PAGES + page)
    }

    fn submit(&mut self, vm: &mut Vm, at: usize) -> Result<()> {
        const ORDER: [u32; 7] = [
            request_type::OUT,
            request_type::IN,
            request_type::FLUSH,
            request_type::OUT,
            request_type::WRITE_ZEROES,
            request_type::IN,
            request_type::DISCARD,
        ];
        let kind = ORDER[(self.round + at * 3) % ORDER.len()];
        let sector = (at * BYTES / 512) as u64;
        let [header, status, data] = [0, 1, 2].map(|page| Self::page(vm, at, page));
        let mut bytes = [kind.to_le_bytes(), [0; 4]].concat();
        let place = if kind == request_type::FLUSH {
            0
        } else {
            sector
        };
        bytes.extend_from_slice(&place.to_le_bytes());
        let mut range = sector.to_le_bytes().to_vec();
        range.extend_from_slice(&((BYTES / 512) as u32).to_le_bytes());
        range.extend_from_slice(&[0; 4]);
        let memory = &vm.guest.memory;
        memory.write(header, &bytes)?;
        memory.write(header + 512, &range)?;
        memory.write(status, &[0xff])?;
        let part = |addr, len| Segment { addr, len };
        let (head, end) = (part(header, 16), part(status, 1));
        let all = part(data, BYTES as u32);
        let slot = self.slots.get_mut(at).context("a slot")?;
        slot.request = kind;
        let (readable, writable) = match kind {
            request_type::OUT => {
                let content = pattern(self.round * 64 + at);
                memory.write(data, &content)?;
                slot.content = Some(content);
                (vec![head, all], vec![end])
            }
            request_type::IN => {
                memory.write(data, &[0xee; BYTES])?;
                (vec![head], vec![all, end])
            }
            request_type::FLUSH => (vec![head], vec![end]),
            _ => {
                let zeroes = kind == request_type::WRITE_ZEROES;
                slot.content = zeroes.then(|| vec![0; BYTES]);
                (vec![head, part(header + 512, 16)], vec![end])
            }
        };
        let queue = at / SLOTS;
        let driver = &mut vm.queues.get_mut(queue).context("a queue")?.driver;
        let id = driver.add(&readable, &writable, None);
        let id = id.map_err(|error| anyhow::anyhow!("{error}"))?;
        self.flying.insert((queue, id), at);
        Ok(())
    }

    fn check(&self, vm: &Vm, at: usize, written: u32) -> Result<()> {
        let slot = self.slots.get(at).context("a slot")?;
        let mut status = [0];
        vm.guest.memory.read(Self::page(vm, at, 1), &mut status)?;
        ensure!(
            status == [0],
            "request {} ends with status {status:?}",
            slot.request
        );
        let read = slot.request == request_type::IN;
        let expected = if read { BYTES as u32 + 1 } else { 1 };
        ensure!(
            written == expected,
            "request {}: {written} bytes",
            slot.request
        );
        if self.logged && vm.logging() {
            let pages: &[u64] = if read { &[1, 2, 3] } else { &[1] };
            for page in pages {
                let addr = Self::page(vm, at, *page);
                ensure!(
                    vm.is_logged(addr),
                    "page {page} of a request {} is not logged",
                    slot.request
                );
            }
        }
        let mut data = vec![0; BYTES];
        vm.guest.memory.read(Self::page(vm, at, 2), &mut data)?;
        if let Some(content) = slot.content.as_ref().filter(|_| read) {
            ensure!(data == *content, "slot {at} reads something else");
        }
        Ok(())
    }
}

impl Load for Disk {
    fn begin(&mut self, vm: &mut Vm) -> Result<()> {
        self.logged = vm.logging();
        if self.logged {
            vm.clear_log()?;
        }
        self.round += 1;
        for at in 0..self.slots.len() {
            self.submit(vm, at)?;
            if at % SLOTS % 3 == 2 || at % SLOTS == SLOTS - 1 {
                vm.queues.get_mut(at / SLOTS).context("a queue")?.publish();
            }
        }
        Ok(())
    }

    fn finish(&mut self, vm: &mut Vm) -> Result<()> {
        for queue in 0..usize::from(QUEUES) {
            let driver = vm.queues.get_mut(queue).context("a queue")?;
            for (id, written) in driver.wait(SLOTS)? {
                let at = self
                    .flying
                    .remove(&(queue, id))
                    .context("an id that was not in flight")?;
                self.check(vm, at, written)?;
            }
            let driver = vm.queues.get_mut(queue).context("a queue")?;
            ensure!(!driver.driver.has_used(), "more completions than requests");
            ensure!(!driver.err.drain(), "an error is signalled");
            if self.logged && vm.logging() {
                let used = vm.queues.get(queue).context("a queue")?.guest_areas[2];
                let packed = vm.terms.shape.features & virtio_spec::feature::RING_PACKED != 0;
                ensure!(packed || vm.is_logged(used), "the used ring is not logged");
            }
        }
        Ok(())
    }

    fn abandon(&mut self, vm: &mut Vm) -> Result<()> {
        for queue in 0..usize::from(QUEUES) {
            while let Some(used) = vm.queues.get_mut(queue).context("a queue")?.pop()? {
                let at = self.flying.remove(&(queue, used.id));
                self.check(
                    vm,
                    at.context("an id that was not in flight")?,
                    used.written,
                )?;
            }
        }
        for (_, at) in self.flying.drain() {
            let slot = self.slots.get_mut(at).context("a slot")?;
            if ![request_type::IN, request_type::FLUSH].contains(&slot.request) {
                slot.content = None;
            }
        }
        Ok(())
    }

    fn anew(&mut self, _vm: &mut Vm) -> Result<()> {
        Ok(())
    }
}

/// Leads disks of one engine through the life: on every medium and cache that it can have.
#[expect(clippy::print_stdout, reason = "a test says what it skips")]
fn disks(engine: EngineChoice, folder: Option<&Path>, caches: &[CacheMode]) {
    let mut failures = Vec::new();
    for cache in caches {
        for terms in Terms::all(FEATURES) {
            let base = match folder {
                Some(_) => BlockSpec::default(),
                None => BlockSpec::memory(1 << 20),
            };
            let spec = BlockSpec {
                engine,
                cache: *cache,
                num_queues: QUEUES,
                ..base
            };
            let place = folder.map_or("memory".into(), |folder| folder.display().to_string());
            let name = format!("{engine:?}, {place}, {cache:?}, {}", terms.name());
            let start = || {
                let image = folder.map(tempfile::NamedTempFile::new_in).transpose()?;
                let mut spec = spec.clone();
                if let Some(image) = &image {
                    image.as_file().set_len(1 << 20)?;
                    spec.path = Some(image.path().to_owned());
                }
                let device = BlockDevice::open(spec)?;
                ensure!(
                    engine == EngineChoice::Auto || device.engine() == word(engine),
                    "the engine"
                );
                Ok((Vm::new(Serving::new(device)?, terms, QUEUES)?, Disk::new()))
            };
            if *cache == CacheMode::None
                && let Err(error) = start()
            {
                println!("SKIPS ITSELF {name}: no O_DIRECT here ({error:#})");
                continue;
            }
            failures.extend(live(&name, start));
        }
    }
    all_live(&failures);
}

fn word(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Map => "map",
        EngineChoice::Uring => "uring",
        _ => "sync",
    }
}

const CACHES: &[CacheMode] = &[
    CacheMode::Writeback,
    CacheMode::None,
    CacheMode::Writethrough,
];

/// A folder on a disk file system: the build's own, unless that is in memory.
#[expect(clippy::print_stdout, reason = "a test says what it skips")]
fn on_disk(test: &str) -> Option<&'static Path> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kind = nix::sys::statfs::statfs(folder).ok()?.filesystem_type();
    if kind == TMPFS_MAGIC {
        println!("SKIPS ITSELF {test}: the build's folder is on tmpfs");
        return None;
    }
    Some(folder)
}

const IN_MEMORY: &str = "/dev/shm";

#[test]
fn disks_with_io_uring_on_a_disk_file_system_live_through_everything() {
    if let Some(folder) =
        on_disk("disks_with_io_uring_on_a_disk_file_system_live_through_everything")
    {
        disks(EngineChoice::Uring, Some(folder), CACHES);
    }
}

#[test]
fn disks_with_plain_calls_on_a_disk_file_system_live_through_everything() {
    if let Some(folder) =
        on_disk("disks_with_plain_calls_on_a_disk_file_system_live_through_everything")
    {
        disks(EngineChoice::Sync, Some(folder), CACHES);
    }
}

#[test]
fn disks_with_io_uring_on_tmpfs_live_through_everything() {
    disks(EngineChoice::Uring, Some(Path::new(IN_MEMORY)), CACHES);
}

#[test]
fn disks_with_plain_calls_on_tmpfs_live_through_everything() {
    disks(EngineChoice::Sync, Some(Path::new(IN_MEMORY)), CACHES);
}

#[test]
fn disks_with_a_mapped_image_live_through_everything() {
    let caches = [CacheMode::Writeback, CacheMode::Writethrough];
    disks(EngineChoice::Map, Some(Path::new(IN_MEMORY)), &caches);
}

#[test]
fn disks_in_memory_live_through_everything() {
    disks(EngineChoice::Auto, None, &[CacheMode::Writeback]);
}
