//! Load on a disk that knows what every block must hold: reads, writes, flushes, discards, zeroes.
//!
//! One rule: a block says itself which block it is and how often it was written, so that a write that
//! is lost, doubled, torn or led astray shows, also to a program that starts later.

mod discard;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of the longest request.
const LONGEST: usize = 16;
/// The kinds of request, in the order of their counters.
pub const KINDS: [&str; 5] = ["reads", "writes", "flushes", "discards", "zeroes"];
/// Out of how many requests how many are of each kind.
const SHARES: [(usize, u64); 4] = [(0, 30), (1, 70), (2, 80), (3, 90)];

/// What the workers of one load did.
#[derive(Debug, Default)]
pub struct Counters {
    done: [AtomicU64; KINDS.len()],
    /// Sum of the beacons: how often a worker wrote its first block and saw the flush after it done.
    beacons: AtomicU64,
    longest_ms: AtomicU64,
    /// Pages of the buffers, and how many lie above the address that is asked for.
    pages: [AtomicU64; 2],
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, done) in KINDS.iter().zip(&self.done) {
            write!(f, "{name}={} ", done.load(Ordering::Relaxed))?;
        }
        let [beacons, longest] =
            [&self.beacons, &self.longest_ms].map(|number| number.load(Ordering::Relaxed));
        let [pages, plugged] = self.pages.each_ref().map(|n| n.load(Ordering::Relaxed));
        write!(
            f,
            "beacons={beacons} longest={longest}ms pages={pages} plugged={plugged}"
        )
    }
}

/// What a block must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// This generation; 0 is zeroes.
    Exactly(u32),
    /// This one, or zeroes: it was discarded.
    AtMost(u32),
}

/// One worker: a part of the disk that no other touches.
#[derive(Debug)]
struct Worker<'a> {
    disk: &'a File,
    counters: &'a Counters,
    first: u64,
    /// Generation of the last write, and what the block must hold.
    blocks: Vec<(u32, Holds)>,
    buffer: Buffer,
    random: u64,
}

/// Memory for O_DIRECT: whole pages.
#[derive(Debug)]
struct Buffer {
    space: Vec<u8>,
    offset: usize,
}

impl Buffer {
    fn new(blocks: usize) -> Self {
        let space = vec![0; (blocks + 1) * BLOCK];
        let offset = space.as_ptr().align_offset(BLOCK);
        Self { space, offset }
    }

    fn bytes(&mut self, blocks: usize) -> &mut [u8] {
        &mut self.space[self.offset..self.offset + blocks * BLOCK]
    }

    /// How many of its pages there are, and how many lie at `from` or above in physical memory.
    fn pages_from(&mut self, from: u64) -> io::Result<[u64; 2]> {
        let map = File::open("/proc/self/pagemap")?;
        let start = self.bytes(LONGEST).as_ptr().addr() / BLOCK;
        let mut above = 0;
        for page in start..start + LONGEST {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, page as u64 * 8)?;
            let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
            above += u64::from(frame * BLOCK as u64 >= from);
        }
        Ok([LONGEST as u64, above])
    }
}

/// What generation `generation` of block `number` looks like.
fn fill(number: u64, generation: u32, block: &mut [u8]) {
    if generation == 0 {
        block.fill(0);
        return;
    }
    let seed = mix(number ^ (u64::from(generation) << 40));
    for (at, word) in (0u64..).zip(block.chunks_exact_mut(8)) {
        let value = match at {
            0 => number,
            1 => u64::from(generation),
            _ => seed.wrapping_mul(at | 1).rotate_left(23) ^ seed,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    (word ^ (word >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d)
}

/// The generation that a block holds; 0 for zeroes.
///
/// # Errors
/// When it is none of this block's.
fn generation_of(number: u64, block: &[u8]) -> anyhow::Result<u32> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let word = |at: usize| -> anyhow::Result<u64> {
        let bytes = block.get(at * 8..at * 8 + 8).context("A cut block")?;
        Ok(u64::from_le_bytes(bytes.try_into()?))
    };
    let (who, generation) = (word(0)?, word(1)?);
    let mut right = [0; BLOCK];
    let told = u32::try_from(generation).unwrap_or(0);
    fill(number, told, &mut right);
    match right.iter().zip(block).position(|(a, b)| a != b) {
        None => Ok(told),
        Some(at) => bail!(
            "block {number} is wrong at byte {at}: it says it is block {who}, generation {generation}"
        ),
    }
}

impl Worker<'_> {
    fn next(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.random) >> 11) % below
    }

    fn offset(&self, block: usize) -> u64 {
        (self.first + block as u64) * BLOCK as u64
    }

    /// Reads what is there: zeroes, or what an earlier life wrote.
    fn survey(&mut self, plugged: u64) -> anyhow::Result<()> {
        for start in (0..self.blocks.len()).step_by(LONGEST) {
            let count = LONGEST.min(self.blocks.len() - start);
            let offset = self.offset(start);
            let bytes = self.buffer.bytes(count);
            self.disk.read_exact_at(bytes, offset)?;
            for (at, block) in bytes.chunks_exact(BLOCK).enumerate() {
                let generation = generation_of(self.first + (start + at) as u64, block)?;
                self.blocks[start + at] = (generation, Holds::Exactly(generation));
            }
        }
        // The device has written to all of them by now.
        let pages = self.buffer.pages_from(plugged)?;
        for (sum, pages) in self.counters.pages.iter().zip(pages) {
            sum.fetch_add(pages, Ordering::Relaxed);
        }
        let beacon = u64::from(self.blocks[0].0);
        self.counters.beacons.fetch_add(beacon, Ordering::Relaxed);
        Ok(())
    }

    fn verify(&mut self, start: usize, count: usize) -> anyhow::Result<()> {
        let offset = self.offset(start);
        let bytes = self.buffer.bytes(count);
        let read = self.disk.read_exact_at(bytes, offset);
        read.with_context(|| format!("Read {count} blocks at {start}"))?;
        for (at, block) in bytes.chunks_exact(BLOCK).enumerate() {
            let number = self.first + (start + at) as u64;
            let is = generation_of(number, block)?;
            let holds = self.blocks[start + at].1;
            let right = match holds {
                Holds::Exactly(generation) => is == generation,
                Holds::AtMost(generation) => is == generation || is == 0,
            };
            if !right {
                bail!("block {number} holds generation {is}, not {holds:?}");
            }
        }
        Ok(())
    }

    fn write(&mut self, start: usize, count: usize) -> anyhow::Result<()> {
        let offset = self.offset(start);
        let blocks = &mut self.blocks[start..start + count];
        let bytes = self.buffer.bytes(count);
        for (at, (block, (last, holds))) in bytes
            .chunks_exact_mut(BLOCK)
            .zip(blocks.iter_mut())
            .enumerate()
        {
            *last += 1;
            *holds = Holds::Exactly(*last);
            fill(self.first + (start + at) as u64, *last, block);
        }
        let written = self.disk.write_all_at(bytes, offset);
        written.with_context(|| format!("Write {count} blocks at {start}"))
    }

    /// Writes the beacon and makes it durable.
    fn flush(&mut self) -> anyhow::Result<()> {
        self.write(0, 1)?;
        self.disk.sync_data().context("Flush")?;
        self.counters.beacons.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn discard(&mut self, start: usize, count: usize) -> anyhow::Result<()> {
        let length = (count * BLOCK) as u64;
        discard::discard(self.disk, self.offset(start), length).context("Discard")?;
        for (_, holds) in &mut self.blocks[start..start + count] {
            let (Holds::Exactly(generation) | Holds::AtMost(generation)) = *holds;
            *holds = Holds::AtMost(generation);
        }
        Ok(())
    }

    fn zero(&mut self, start: usize, count: usize) -> anyhow::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let offset = i64::try_from(self.offset(start))?;
        let length = i64::try_from(count * BLOCK)?;
        fallocate(self.disk.as_fd(), flags, offset, length).context("Write zeroes")?;
        for (_, holds) in &mut self.blocks[start..start + count] {
            *holds = Holds::Exactly(0);
        }
        Ok(())
    }

    fn request(&mut self) -> anyhow::Result<()> {
        let kind = self.next(100);
        let kind = SHARES.iter().find(|(_, end)| kind < *end);
        let kind = kind.map_or(4, |(kind, _)| *kind);
        // The first block is the beacon's.
        let start = 1 + self.next(self.blocks.len() as u64 - 1) as usize;
        let count = 1 + self.next(LONGEST as u64) as usize;
        let count = count.min(self.blocks.len() - start);
        let before = Instant::now();
        match kind {
            0 => self.verify(start, count)?,
            1 => self.write(start, count)?,
            2 => self.flush()?,
            3 => self.discard(start, count)?,
            _ => self.zero(start, count)?,
        }
        let took = u64::try_from(before.elapsed().as_millis())?;
        self.counters.longest_ms.fetch_max(took, Ordering::Relaxed);
        self.counters.done[kind].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn live(mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.request()?;
        }
        for start in (0..self.blocks.len()).step_by(LONGEST) {
            self.verify(start, LONGEST.min(self.blocks.len() - start))?;
        }
        Ok(())
    }
}

/// Which part of a disk gets the load.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its first block.
    pub first: u64,
    /// How many blocks each worker has.
    pub each: usize,
    /// How many requests are under way at the same time.
    pub workers: u64,
    /// Physical address from where on memory was plugged in, for `Counters::pages`.
    pub plugged: u64,
}

/// Runs the load on `disk` until `stop`, then reads every block again. `found` is called when all
/// was read that an earlier life left.
///
/// # Errors
/// When a request fails or a block does not hold what it must; the others then stop too.
pub fn run(
    disk: &Path,
    part: Part,
    counters: &Counters,
    stop: &AtomicBool,
    found: impl FnOnce(),
) -> anyhow::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)?;
    let mut workers = Vec::new();
    for number in 0..part.workers {
        let mut worker = Worker {
            disk: &file,
            counters,
            first: part.first + number * part.each as u64,
            blocks: vec![(0, Holds::Exactly(0)); part.each],
            buffer: Buffer::new(LONGEST),
            random: mix(part.first + number + 1),
        };
        worker.survey(part.plugged)?;
        workers.push(worker);
    }
    found();
    std::thread::scope(|scope| {
        let workers: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                scope.spawn(move || {
                    let lived = worker.live(stop);
                    if lived.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    lived
                })
            })
            .collect();
        let ends = workers.into_iter().map(|worker| match worker.join() {
            Ok(end) => end,
            Err(_) => bail!("A worker panicked"),
        });
        // All are waited for; the first error is told.
        let ends: Vec<anyhow::Result<()>> = ends.collect();
        ends.into_iter().collect()
    })
}

/// One number for all that a disk or an image holds, by which guest and host compare.
///
/// # Errors
/// When it cannot be read.
pub fn digest(disk: &Path) -> anyhow::Result<u64> {
    let file = File::open(disk)?;
    let mut sum = 0u64;
    let mut block = [0; BLOCK];
    for number in 0u64.. {
        let read = file.read_at(&mut block, number * BLOCK as u64)?;
        if read == 0 {
            break;
        }
        for word in block[..read].chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into()?);
            sum = sum.rotate_left(5).wrapping_add(word) ^ number;
        }
    }
    Ok(mix(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(workers: u64) -> Part {
        Part {
            first: 0,
            each: 64,
            workers,
            plugged: u64::MAX,
        }
    }

    #[test]
    fn a_block_of_another_place_or_with_a_wrong_byte_is_found() {
        let mut block = [0; BLOCK];
        fill(7, 3, &mut block);
        assert_eq!(generation_of(7, &block).unwrap(), 3);
        assert!(generation_of(8, &block).is_err());
        block[BLOCK - 1] ^= 1;
        assert!(generation_of(7, &block).is_err());
    }

    #[test]
    fn a_write_that_is_lost_shows() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * BLOCK as u64).unwrap();
        let counters = Counters::default();
        let mut worker = Worker {
            disk: &file,
            counters: &counters,
            first: 0,
            blocks: vec![(0, Holds::Exactly(0)); 64],
            buffer: Buffer::new(LONGEST),
            random: 1,
        };
        worker.write(3, 2).unwrap();
        worker.verify(0, LONGEST).unwrap();
        let mut old = vec![0; 2 * BLOCK];
        file.read_exact_at(&mut old, 3 * BLOCK as u64).unwrap();
        worker.write(3, 2).unwrap();
        worker.verify(0, LONGEST).unwrap();
        file.write_all_at(&old[..BLOCK], 3 * BLOCK as u64).unwrap();
        assert!(worker.verify(0, LONGEST).is_err());
    }

    #[test]
    fn a_digest_sees_every_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * BLOCK as u64).unwrap();
        let before = digest(file.path()).unwrap();
        file.as_file()
            .write_all_at(&[1], 5 * BLOCK as u64 + 9)
            .unwrap();
        assert_ne!(digest(file.path()).unwrap(), before);
    }

    #[test]
    fn several_workers_on_one_file_agree_with_it() {
        let file = tempfile::NamedTempFile::new_in(crate::paths::target()).unwrap();
        file.as_file().set_len(128 * BLOCK as u64).unwrap();
        let (counters, stop) = (Counters::default(), AtomicBool::new(true));
        run(file.path(), part(2), &counters, &stop, || ()).unwrap();
    }
}
