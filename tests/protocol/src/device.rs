//! A device that copies what it reads to what it may write. One rule: tests steer it from outside (gate, journal) and it
//! keeps no secret of what it did.

use device_model::ConfigNotifier;
use device_model::Device;
use device_model::Error;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use guest_memory::GuestMemory;
use host_os::sync::lock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use virtio_spec::feature;
use virtqueue::ChainBatch;
use virtqueue::Segment;
use virtqueue::Token;

/// A request that starts with this makes the handler panic.
pub const PANIC_MARK: &[u8; 8] = b"PANIC!!!";

/// Most bytes of one request that are copied.
const COPY_MAX: usize = 1 << 20;

/// The device. Its configuration space: eight writable bytes, then eight read-only ones.
pub struct EchoDevice {
    queues: u16,
    config: Mutex<[u8; 16]>,
    notify: Mutex<Option<ConfigNotifier>>,
    shared: Arc<Shared>,
    resets: AtomicU64,
}

#[derive(Default)]
struct Shared {
    /// While set, requests are taken but not completed.
    held: AtomicBool,
    /// While set, a drain waits.
    slow: AtomicBool,
    /// First eight bytes of every request executed, in order.
    journal: Mutex<Vec<u64>>,
}

impl EchoDevice {
    /// A device with `queues` queues.
    pub fn new(queues: u16) -> Arc<Self> {
        Arc::new(Self {
            queues,
            config: Mutex::new([0; 16]),
            notify: Mutex::new(None),
            shared: Arc::default(),
            resets: AtomicU64::new(0),
        })
    }

    /// Holds completions back, or lets them go at the next look.
    pub fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::Release);
    }

    /// Lets drains wait, as for a slow medium, or go on.
    pub fn slow_drain(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::Release);
    }

    /// First eight bytes of every request executed so far.
    pub fn journal(&self) -> Vec<u64> {
        lock(&self.shared.journal).clone()
    }

    /// How often the device was reset.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Changes the read-only half of the configuration, as a resize would.
    pub fn change_config(&self, value: u64) {
        lock(&self.config)[8..].copy_from_slice(&value.to_le_bytes());
        let notify = lock(&self.notify).clone();
        if let Some(notify) = notify {
            notify();
        }
    }
}

impl Device for EchoDevice {
    fn device_id(&self) -> u32 {
        2
    }

    fn queue_count(&self) -> u16 {
        self.queues
    }

    fn queue_size_max(&self) -> u16 {
        1024
    }

    fn features(&self) -> u64 {
        feature::VERSION_1
            | feature::RING_PACKED
            | feature::RING_EVENT_IDX
            | feature::RING_INDIRECT_DESC
    }

    fn acked(&self, _features: u64) {}

    fn config_size(&self) -> u32 {
        16
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let config = lock(&self.config);
        for (at, byte) in (offset as usize..).zip(out) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), Error> {
        let start = offset as usize;
        let mut config = lock(&self.config);
        match config
            .get_mut(..8)
            .and_then(|half| half.get_mut(start..start + data.len()))
        {
            Some(place) => place.copy_from_slice(data),
            None => {
                return Err(Error::Config {
                    offset,
                    len: data.len(),
                });
            }
        }
        Ok(())
    }

    fn start_queue(&self, _index: u16, _features: u64) -> Result<Box<dyn QueueHandler>, Error> {
        Ok(Box::new(EchoHandler {
            shared: self.shared.clone(),
            batch: ChainBatch::with_capacity(64, 256),
            pending: VecDeque::new(),
        }))
    }

    fn reset(&self) {
        *lock(&self.config) = [0; 16];
        self.resets.fetch_add(1, Ordering::AcqRel);
    }

    fn on_config_change(&self, notify: ConfigNotifier) {
        *lock(&self.notify) = Some(notify);
    }

    fn has_state(&self) -> bool {
        true
    }

    fn save_state(&self) -> Result<Vec<u8>, Error> {
        Ok(lock(&self.config).to_vec())
    }

    fn load_state(&self, state: &[u8]) -> Result<(), Error> {
        let state: [u8; 16] = state.try_into().map_err(|_| Error::State("wrong length"))?;
        *lock(&self.config) = state;
        Ok(())
    }
}

struct Request {
    token: Token,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

struct EchoHandler {
    shared: Arc<Shared>,
    batch: ChainBatch,
    pending: VecDeque<Request>,
}

impl EchoHandler {
    fn complete_all(&mut self, queue: &mut Queue, memory: &GuestMemory) -> Result<u32, Error> {
        let mut completed = 0;
        for request in std::mem::take(&mut self.pending) {
            let written = self.execute(&request, memory);
            queue.complete(request.token, written)?;
            completed += 1;
        }
        queue.publish();
        Ok(completed)
    }

    fn execute(&self, request: &Request, memory: &GuestMemory) -> u32 {
        let total: usize = request.readable.iter().map(|s| s.len as usize).sum();
        let mut data = vec![0; total.min(COPY_MAX)];
        let mut at = 0;
        for segment in &request.readable {
            let end = (at + segment.len as usize).min(data.len());
            if memory.read(segment.addr, &mut data[at..end]).is_err() {
                return 0;
            }
            at = end;
        }
        if let Some(mark) = data.first_chunk::<8>() {
            assert!(mark != PANIC_MARK, "the request says so");
            lock(&self.shared.journal).push(u64::from_le_bytes(*mark));
        }
        write_back(&data, &request.writable, memory)
    }
}

fn write_back(data: &[u8], writable: &[Segment], memory: &GuestMemory) -> u32 {
    let mut rest = data;
    let mut written = 0;
    for segment in writable {
        let (now, later) = rest.split_at(rest.len().min(segment.len as usize));
        if memory.write(segment.addr, now).is_err() {
            break;
        }
        written += now.len() as u32;
        rest = later;
    }
    written
}

impl QueueHandler for EchoHandler {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        self.batch.clear();
        let taken = queue.take(&mut self.batch, 64)?;
        for chain in self.batch.iter() {
            let (readable, writable) = (chain.readable.to_vec(), chain.writable.to_vec());
            self.pending.push_back(Request {
                token: chain.token,
                readable,
                writable,
            });
        }
        if self.shared.held.load(Ordering::Acquire) {
            return Ok(Progress {
                taken: taken as u32,
                completed: 0,
            });
        }
        let completed = self.complete_all(queue, memory)?;
        Ok(Progress {
            taken: taken as u32,
            completed,
        })
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn drain(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        while self.shared.slow.load(Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.complete_all(queue, memory).map(|_| ())
    }

    fn suspend(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        if self.shared.held.load(Ordering::Acquire) {
            self.pending.clear();
            return Ok(());
        }
        self.drain(queue, memory)
    }
}
