//! A disk as a virtio device: what it offers, how it starts queues, how it changes while it runs.
//!
//! Rule: nothing here is on the request path; queues see changes through [`Disk`], by atomic loads.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use device_model::ConfigNotifier;
use device_model::Device;
use device_model::DeviceRecord;
use device_model::QueueHandler;
use host_os::sync::lock;
use metrics::CounterSet as _;
use nix::unistd::fdatasync;
use nix::unistd::ftruncate;
use virtio_spec::block::CONFIG_WRITEBACK_OFFSET;
use virtio_spec::block::feature as block;
use virtio_spec::device_id;

use crate::BlockSpec;
use crate::CacheMode;
use crate::Error;
use crate::Metrics;
use crate::config;
use crate::counters::QueueMetrics;
use crate::durability::Durability;
use crate::engine::Choice;
use crate::handler::BlockQueue;
use crate::image::Image;
use crate::request::Limits;
use crate::request::id_bytes;
use crate::write_cache::RECORD_BYTES;
use crate::write_cache::WriteCache;

/// What all queues of a disk share.
#[derive(Debug)]
pub(crate) struct Disk {
    pub image: Arc<Image>,
    pub durability: Durability,
    pub id: [u8; virtio_spec::block::ID_SIZE],
    pub sync_on_flush: bool,
    features: u64,
    block_size: u32,
    /// Every write is made durable before it completes.
    write_through: AtomicBool,
}

impl Disk {
    /// What requests are checked against.
    #[inline]
    pub fn limits(&self) -> Limits {
        Limits {
            size: self.image.size(),
            block_size: self.block_size,
            readonly: self.features & block::RO != 0,
            discard: self.features & block::DISCARD != 0,
            write_zeroes: self.features & block::WRITE_ZEROES != 0,
        }
    }

    #[inline]
    pub fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Acquire)
    }
}

/// One disk, shared by its queues.
pub struct BlockDevice {
    spec: BlockSpec,
    disk: Arc<Disk>,
    engine: Choice,
    cache: WriteCache,
    metrics: Vec<Arc<QueueMetrics>>,
    notify: Mutex<Option<ConfigNotifier>>,
}

impl std::fmt::Debug for BlockDevice {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("BlockDevice")
            .field("spec", &self.spec)
            .field("engine", &self.engine.name())
            .finish_non_exhaustive()
    }
}

impl BlockDevice {
    /// Opens the image of `spec` and picks its engine. The image is locked from the start of the first queue to the end of
    /// the last.
    ///
    /// # Errors
    /// The specification is wrong, or the image cannot be opened or served as asked.
    pub fn open(spec: BlockSpec) -> Result<Arc<Self>, Error> {
        spec.check().map_err(Error::Spec)?;
        let image = Arc::new(Image::open(&spec)?);
        let engine = Choice::pick(&spec, &image)?;
        let serial = spec.serial.clone().unwrap_or_default();
        tracing::info!(image = %image.path.display(), engine = engine.name(), bytes = image.size(),
            cache = ?spec.cache, readonly = spec.readonly, "disk is open");
        let disk = Disk {
            id: id_bytes(&serial),
            sync_on_flush: spec.cache != CacheMode::Unsafe,
            features: config::features(&spec),
            block_size: spec.block_size,
            write_through: AtomicBool::new(false),
            durability: Durability::watch(&image.file, image.path.clone()),
            image,
        };
        let cached = matches!(
            spec.cache,
            CacheMode::None | CacheMode::Writeback | CacheMode::Unsafe
        );
        let device = Self {
            metrics: (0..spec.num_queues).map(|_| Arc::default()).collect(),
            disk: Arc::new(disk),
            engine,
            cache: WriteCache::new(cached),
            notify: Mutex::new(None),
            spec,
        };
        device.reset();
        Ok(Arc::new(device))
    }

    /// What its queues share.
    #[cfg(test)]
    pub(crate) fn disk(&self) -> Arc<Disk> {
        Arc::clone(&self.disk)
    }

    /// What the disk was opened with.
    pub fn spec(&self) -> &BlockSpec {
        &self.spec
    }

    /// Bytes that the disk offers now.
    pub fn size(&self) -> u64 {
        self.disk.image.size()
    }

    /// The engine in use: `map`, `uring` or `sync`.
    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// System calls that this disk makes and other devices do not.
    pub fn syscalls(&self) -> &'static [i64] {
        self.engine.syscalls()
    }

    /// Whether the guest may rely on FLUSH alone (write-back), or every write is durable (write-through).
    pub fn is_write_through(&self) -> bool {
        self.disk.write_through()
    }

    /// Why nothing that the guest writes is said to be durable any more, if a write-back of the image has failed.
    pub fn lost_durability(&self) -> Option<std::io::Error> {
        self.disk.durability.lost().map(Into::into)
    }

    /// Sum of all queues' counters.
    pub fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        for queue in &self.metrics {
            queue.add_to(&mut sum);
        }
        sum
    }

    /// Takes on the size that the image has now, and tells the guest if it changed; returns it in bytes.
    ///
    /// # Errors
    /// The image's size cannot be read, or the image cannot be mapped anew.
    pub fn resize(&self) -> Result<u64, Error> {
        let before = self.size();
        let after = self.disk.image.refresh_size()?;
        if let Choice::Map(shared) = &self.engine {
            shared.remap(&self.disk.image)?;
        }
        if after != before {
            tracing::info!(image = %self.disk.image.path.display(), before, after, "disk changed its size");
            self.notify_config_change();
        }
        Ok(after)
    }

    /// Gives a memory disk a new size.
    ///
    /// # Errors
    /// The disk is no memory disk, or the size is no multiple of its blocks.
    pub fn resize_to(&self, bytes: u64) -> Result<u64, Error> {
        let image = &self.disk.image;
        if self.spec.memory_disk.is_none() {
            return Err(Error::ResizeImage {
                path: image.path.clone(),
            });
        }
        let bad = Error::ResizeTo {
            bytes,
            block_size: self.spec.block_size,
        };
        let Some(len) = i64::try_from(bytes)
            .ok()
            .filter(|_| bytes != 0 && bytes.is_multiple_of(u64::from(self.spec.block_size)))
        else {
            return Err(bad);
        };
        ftruncate(&image.file, len).map_err(|errno| Error::Open {
            path: image.path.clone(),
            source: errno.into(),
        })?;
        self.resize()
    }

    fn notify_config_change(&self) {
        let notify = lock(&self.notify).clone();
        if let Some(notify) = notify {
            notify();
        }
    }

    fn acked_has(&self, bit: u64) -> bool {
        self.cache.acked() & bit != 0
    }

    /// Follows virtio 1.4 sec. 5.2.6.2: with CONFIG_WCE the driver's choice counts; with FLUSH alone the device's; a
    /// driver with neither cannot flush, so every write has to be durable.
    fn settle_cache(&self) {
        let writeback = self.cache.writeback();
        let through = match self.spec.cache {
            CacheMode::Unsafe => false,
            _ if self.acked_has(block::CONFIG_WCE) => !writeback,
            _ if self.acked_has(block::FLUSH) => self.spec.cache == CacheMode::Writethrough,
            _ => true,
        };
        self.disk.write_through.store(through, Ordering::Release);
    }

    fn config(&self) -> virtio_spec::block::Config {
        config::space(&self.spec, self.size(), self.cache.writeback())
    }
}

impl Device for BlockDevice {
    fn device_id(&self) -> u32 {
        device_id::BLOCK
    }

    fn queue_count(&self) -> u16 {
        self.spec.num_queues
    }

    fn queue_size_max(&self) -> u16 {
        self.spec.queue_size
    }

    fn features(&self) -> u64 {
        self.disk.features
    }

    fn acked(&self, features: u64) {
        self.cache.set_acked(features);
        self.settle_cache();
    }

    fn config_size(&self) -> u32 {
        u32::try_from(size_of::<virtio_spec::block::Config>()).unwrap_or(0)
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        config::read(&self.config(), offset, out);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), device_model::Error> {
        let writeback = match data {
            [value @ (0 | 1)] if usize::try_from(offset) == Ok(CONFIG_WRITEBACK_OFFSET) => {
                *value == 1
            }
            _ => {
                return Err(device_model::Error::Config {
                    offset,
                    len: data.len(),
                });
            }
        };
        if !self.acked_has(block::CONFIG_WCE) {
            return Err(device_model::Error::Config {
                offset,
                len: data.len(),
            });
        }
        self.cache.choose(writeback);
        self.settle_cache();
        if !self.disk.write_through() {
            return Ok(());
        }
        // What completed while the cache was on becomes durable now, as it would with a real drive. If it cannot, the
        // cache stays off all the same: front-ends cannot tell the driver, and it will not flush any more.
        let synced = fdatasync(&self.disk.image.file);
        self.disk
            .durability
            .vouch(synced, true)
            .map_err(|errno| device_model::Error::Io {
                what: "the flush of the disk",
                source: errno.into(),
            })
    }

    fn start_queue(
        &self,
        index: u16,
        _features: u64,
    ) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        let metrics = self
            .metrics
            .get(usize::from(index))
            .ok_or(device_model::Error::Unsupported)?;
        let image = &self.disk.image;
        let refused = |what| {
            move |source: Error| device_model::Error::Io {
                what,
                source: std::io::Error::other(source),
            }
        };
        let first = image.hold(index).map_err(refused("taking the image"))?;
        // Others may have changed the image until now.
        let fresh = if first {
            self.resize().map(drop)
        } else {
            Ok(())
        };
        let engine = fresh.and_then(|()| self.engine.start(image));
        if engine.is_err() {
            image.let_go(Some(index));
        }
        let engine = engine.map_err(refused("the disk engine's start"))?;
        Ok(Box::new(BlockQueue::new(
            Arc::clone(&self.disk),
            engine,
            self.spec.depth(),
            Arc::clone(metrics),
        )))
    }

    fn queue_ended(&self, index: u16) {
        self.disk.image.let_go(Some(index));
    }

    fn reset(&self) {
        self.disk.image.let_go(None);
        self.cache.reset();
        self.settle_cache();
    }

    fn session_ended(&self) {
        self.disk.image.let_go(None);
        self.cache.session_ended();
        self.settle_cache();
    }

    fn record_bytes(&self) -> u32 {
        RECORD_BYTES
    }

    fn keep_in(&self, record: Option<DeviceRecord>) {
        self.cache.keep_in(record);
        self.settle_cache();
    }

    fn has_state(&self) -> bool {
        true
    }

    fn save_state(&self) -> Result<Vec<u8>, device_model::Error> {
        Ok(self.cache.save())
    }

    fn load_state(&self, state: &[u8]) -> Result<(), device_model::Error> {
        self.cache
            .load(state)
            .ok_or(device_model::Error::State("not of a disk"))?;
        self.settle_cache();
        Ok(())
    }

    fn on_config_change(&self, notify: ConfigNotifier) {
        *lock(&self.notify) = Some(notify);
    }
}
