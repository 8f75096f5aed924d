//! The baseline: the same job straight on the file, on one core, with no daemon and no guest.
#![expect(
    unsafe_code,
    reason = "io_uring takes raw buffers, and a mapping is read and written as a slice"
)]

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::ValueEnum;
use io_uring::IoUring;
use io_uring::opcode;
use io_uring::types::Fixed;
use io_uring::types::FsyncFlags;

use crate::job::Job;
use crate::job::Plan;
use crate::job::Step;
use crate::memory::SharedMemory;
use crate::sample::Recorder;
use crate::sample::Sample;

/// How native requests are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// io_uring with a fixed file, batched submission.
    Uring,
    /// `pread`/`pwrite`, one at a time.
    Sync,
}

impl Engine {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "native-uring",
            Self::Sync => "native-sync",
        }
    }
}

/// Runs `job` on `path`, past the page cache if `direct`; `queues` multiplies the depth, all on the calling thread.
pub fn run(path: &Path, engine: Engine, direct: bool, job: &Job) -> Result<Sample> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata()?.len();
    match engine {
        Engine::Uring => uring(&file, bytes, job),
        Engine::Sync => sync(&file, bytes, job),
    }
}

fn sync(file: &File, bytes: u64, job: &Job) -> Result<Sample> {
    let mut plan = Plan::new(job, bytes);
    let mut recorder = Recorder::new(job.duration)?;
    // O_DIRECT wants an aligned buffer; the start of a mapping is.
    let memory = SharedMemory::new(job.block_bytes)?;
    // SAFETY: the whole mapping, which nobody else knows and which outlives the slice.
    let buffer = unsafe { std::slice::from_raw_parts_mut(memory.at(0), job.block_bytes) };
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let step = plan.step(last);
        match step {
            Step::Read(at) => file.read_exact_at(buffer, at)?,
            Step::Write(at) => file.write_all_at(buffer, at)?,
            Step::Flush => file.sync_data()?,
        }
        last = Some(step);
        if plan.ends_operation(step) {
            let now = Instant::now();
            recorder.record(since, now, true);
            since = now;
            if recorder.over(now) {
                return Ok(recorder.finish(now));
            }
        }
    }
}

/// A slot of the io_uring baseline.
struct Slot {
    last: Option<Step>,
    since: Instant,
}

fn uring(file: &File, bytes: u64, job: &Job) -> Result<Sample> {
    let depth = job.depth * job.queues;
    let entries = u32::try_from(depth)?.next_power_of_two();
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let memory = SharedMemory::new(depth * job.block_bytes)?;
    let mut plan = Plan::new(job, bytes);
    let mut recorder = Recorder::new(job.duration)?;
    let start = Instant::now();
    let mut slots: Vec<Slot> = (0..depth)
        .map(|_| Slot {
            last: None,
            since: start,
        })
        .collect();
    for (index, slot) in slots.iter_mut().enumerate() {
        push(&mut ring, slot, index, &mut plan, job, &memory)?;
    }
    let mut in_flight = depth;
    let mut done = Vec::with_capacity(depth);
    loop {
        ring.submit_and_wait(1)?;
        done.extend(
            ring.completion()
                .map(|entry| (entry.user_data() as usize, entry.result())),
        );
        in_flight -= done.len();
        let now = Instant::now();
        for (index, result) in done.drain(..) {
            let slot = &mut slots[index];
            if result < 0 {
                bail!(
                    "native I/O failed: {}",
                    std::io::Error::from_raw_os_error(-result)
                );
            }
            if slot.last.is_some_and(|step| plan.ends_operation(step)) {
                recorder.record(slot.since, now, true);
                slot.since = now;
            }
            if !recorder.over(now) {
                push(&mut ring, slot, index, &mut plan, job, &memory)?;
                in_flight += 1;
            }
        }
        if in_flight == 0 {
            return Ok(recorder.finish(now));
        }
    }
}

fn push(
    ring: &mut IoUring,
    slot: &mut Slot,
    index: usize,
    plan: &mut Plan,
    job: &Job,
    memory: &SharedMemory,
) -> Result<()> {
    let step = plan.step(slot.last);
    slot.last = Some(step);
    let buffer = memory.at(index * job.block_bytes);
    let len = u32::try_from(job.block_bytes)?;
    let entry = match step {
        Step::Read(at) => opcode::Read::new(Fixed(0), buffer, len).offset(at).build(),
        Step::Write(at) => opcode::Write::new(Fixed(0), buffer, len).offset(at).build(),
        Step::Flush => opcode::Fsync::new(Fixed(0))
            .flags(FsyncFlags::DATASYNC)
            .build(),
    };
    // SAFETY: the buffer belongs to this slot alone and lives until the ring is dropped.
    unsafe { ring.submission().push(&entry.user_data(index as u64)) }?;
    Ok(())
}
