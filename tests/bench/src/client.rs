//! The load generator: a vhost-user-blk client without a VM, on the independent `virtio-driver` crate.
#![expect(
    unsafe_code,
    reason = "the crate takes raw buffers that the device writes"
)]

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use virtio_driver::EventFd;
use virtio_driver::QueueNotifier;
use virtio_driver::VhostUser;
use virtio_driver::VirtioBlkQueue;
use virtio_driver::VirtioBlkTransport;
use virtio_driver::VirtioFeatureFlags;

use crate::job::Job;
use crate::job::Plan;
use crate::job::Step;
use crate::job::Wait;
use crate::memory::SharedMemory;
use crate::sample::Recorder;
use crate::sample::Sample;

/// Descriptors per queue: room for 128 requests of three.
const QUEUE_SIZE: u16 = 512;
/// A server that completes nothing for this long has lost requests.
const STALL_MS: u16 = 10_000;
/// `VIRTIO_BLK_F_MQ`, virtio 1.4 section 5.2.3.
const BLK_F_MQ: u64 = 1 << 12;
/// `VIRTIO_BLK_F_FLUSH`: without it every write would have to be durable before it completes.
const BLK_F_FLUSH: u64 = 1 << 9;

/// One request slot.
struct Slot {
    last: Option<Step>,
    in_flight: bool,
    since: Instant,
    buffer: usize,
}

/// One queue and what is in flight on it.
struct Lane {
    queue: VirtioBlkQueue<'static, usize>,
    notifier: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
    slots: Vec<Slot>,
    done: Vec<(usize, bool)>,
}

/// Runs `job` against the server behind `socket`.
pub fn run(socket: &Path, job: &Job) -> Result<Sample> {
    let mut kept = None;
    run_and(socket, job, |sample| {
        kept = Some(sample);
        Ok(())
    })?;
    kept.context("no sample was taken")
}

/// Runs `job`, then `after` while the client is still connected but silent.
pub fn run_then<T>(socket: &Path, job: &Job, after: impl FnOnce() -> Result<T>) -> Result<T> {
    run_and(socket, job, |_| after())
}

fn run_and<T>(socket: &Path, job: &Job, and: impl FnOnce(Sample) -> Result<T>) -> Result<T> {
    let path = socket.to_str().context("socket path is not UTF-8")?;
    let mut features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
    features.set(VirtioFeatureFlags::RING_PACKED, job.packed);
    let mut transport: Box<VirtioBlkTransport> = Box::new(VhostUser::new(
        path,
        features.bits() | BLK_F_MQ | BLK_F_FLUSH,
    )?);
    let offered = VirtioFeatureFlags::from_bits_truncate(transport.get_features());
    if job.packed && !offered.contains(VirtioFeatureFlags::RING_PACKED) {
        bail!("the server does not offer packed virtqueues");
    }
    let image_bytes = transport.get_config()?.capacity.to_native() * 512;

    let memory = SharedMemory::new(job.queues * job.depth * job.block_bytes)?;
    transport.map_mem_region(memory.address(), memory.len(), memory.fd(), 0)?;
    let queues = VirtioBlkQueue::setup_queues(&mut *transport, job.queues, QUEUE_SIZE)?;
    let mut lanes: Vec<Lane> = queues
        .into_iter()
        .enumerate()
        .map(|(index, queue)| Lane::new(index, queue, &*transport, job))
        .collect();
    let mut plan = Plan::new(job, image_bytes);
    and(measure(&mut lanes, &mut plan, job, &memory)?)
}

fn measure(
    lanes: &mut [Lane],
    plan: &mut Plan,
    job: &Job,
    memory: &SharedMemory,
) -> Result<Sample> {
    let mut recorder = Recorder::new(job.duration)?;
    for lane in lanes.iter_mut() {
        for slot in 0..job.depth {
            lane.submit(slot, plan, job, memory, Instant::now())?;
        }
        lane.kick()?;
    }
    let mut progress = Instant::now();
    loop {
        let now = Instant::now();
        let over = recorder.over(now);
        let mut busy = false;
        let mut moved = false;
        for lane in lanes.iter_mut() {
            moved |= lane.reap(plan, &mut recorder)?;
            if !over {
                lane.refill(plan, job, memory, now)?;
            } else {
                lane.done.clear();
            }
            busy |= lane.slots.iter().any(|slot| slot.in_flight);
        }
        if !busy {
            return Ok(recorder.finish(now));
        }
        if moved {
            progress = now;
        } else if now.duration_since(progress).as_millis() > u128::from(STALL_MS) {
            bail!("no completion for {STALL_MS} ms: the server lost requests");
        } else if job.wait == Wait::Sleep {
            sleep(lanes)?;
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Sleeps until some queue has completions.
fn sleep(lanes: &mut [Lane]) -> Result<()> {
    if lanes
        .iter_mut()
        .any(|lane| lane.queue.completions().has_next())
    {
        return Ok(());
    }
    let mut fds: Vec<_> = lanes
        .iter()
        .map(|lane| PollFd::new(lane.call.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut fds, PollTimeout::from(STALL_MS))?;
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    for (lane, ready) in lanes.iter().zip(ready) {
        if ready {
            lane.call.read()?;
        }
    }
    Ok(())
}

impl Lane {
    fn new(
        index: usize,
        mut queue: VirtioBlkQueue<'static, usize>,
        transport: &VirtioBlkTransport,
        job: &Job,
    ) -> Self {
        queue.set_used_notif_enabled(job.wait == Wait::Sleep);
        let slots = (0..job.depth)
            .map(|slot| Slot {
                last: None,
                in_flight: false,
                since: Instant::now(),
                buffer: (index * job.depth + slot) * job.block_bytes,
            })
            .collect();
        Self {
            queue,
            notifier: transport.get_submission_notifier(index),
            call: transport.get_completion_fd(index),
            slots,
            done: Vec::with_capacity(job.depth),
        }
    }

    fn submit(
        &mut self,
        index: usize,
        plan: &mut Plan,
        job: &Job,
        memory: &SharedMemory,
        now: Instant,
    ) -> Result<()> {
        let slot = &mut self.slots[index];
        let step = plan.step(slot.last);
        if step != Step::Flush {
            slot.since = now;
        }
        slot.last = Some(step);
        slot.in_flight = true;
        let buffer = memory.at(slot.buffer);
        match step {
            // SAFETY: each slot owns its own block of `memory`, which outlives the transport.
            Step::Read(at) => unsafe { self.queue.read_raw(at, buffer, job.block_bytes, index) }?,
            // SAFETY: as above.
            Step::Write(at) => unsafe { self.queue.write_raw(at, buffer, job.block_bytes, index) }?,
            Step::Flush => self.queue.flush(index)?,
        }
        Ok(())
    }

    fn kick(&mut self) -> Result<()> {
        if self.queue.avail_notif_needed() {
            self.notifier.notify()?;
        }
        Ok(())
    }

    fn reap(&mut self, plan: &Plan, recorder: &mut Recorder) -> Result<bool> {
        self.done.extend(
            self.queue
                .completions()
                .map(|done| (done.context, done.ret == 0)),
        );
        if self.done.is_empty() {
            return Ok(false);
        }
        let now = Instant::now();
        for &(index, ok) in &self.done {
            let slot = &mut self.slots[index];
            if !std::mem::take(&mut slot.in_flight) {
                bail!("request {index} completed twice");
            }
            if slot.last.is_some_and(|step| plan.ends_operation(step)) {
                recorder.record(slot.since, now, ok);
            }
        }
        Ok(true)
    }

    fn refill(
        &mut self,
        plan: &mut Plan,
        job: &Job,
        memory: &SharedMemory,
        now: Instant,
    ) -> Result<()> {
        if self.done.is_empty() {
            return Ok(());
        }
        let done = std::mem::take(&mut self.done);
        for &(index, _) in &done {
            self.submit(index, plan, job, memory, now)?;
        }
        self.done = done;
        self.done.clear();
        self.kick()
    }
}
