//! What a disk is asked to be: one schema for the command line, the config file and the constructor.
//!
//! Rule: everything is checked in [`BlockSpec::check`], which reports every fault at once and names the mend.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::ByteSize;

/// Most request queues one disk may have.
pub const MAX_QUEUES: u16 = 256;
/// Largest ring that virtio allows a split queue.
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// Bytes that GET_ID returns (virtio 1.4, 5.2.6).
pub const SERIAL_BYTES: usize = 20;

/// How the disk's bytes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// Picks by measurement: `map` on memory file systems, else `uring`, else `sync`.
    #[default]
    Auto,
    /// Copies between a mapping of the image and guest memory; for tmpfs, hugetlbfs and memory disks.
    Map,
    /// io_uring, with reads that the page cache holds served at once.
    Uring,
    /// One system call per request; works where io_uring is forbidden.
    Sync,
}

/// When a write counts as finished, and what it passes on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// O_DIRECT, past the host's page cache (through it where the medium takes no block that small); a guest FLUSH is an
    /// fdatasync.
    None,
    /// Through the host's page cache; a guest FLUSH is an fdatasync.
    #[default]
    Writeback,
    /// Through the page cache, and every write is on stable storage before it completes.
    Writethrough,
    /// Through the page cache, and FLUSH does nothing: a host crash loses data. For scratch disks.
    Unsafe,
}

/// Whether the image is locked against other processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LockChoice {
    /// One writer, or any number of readers (open file description lock on the whole image), while a guest uses the disk.
    #[default]
    On,
    /// No lock: two writers will corrupt the image.
    Off,
}

/// One disk: which bytes it holds and how it presents them.
///
/// The format of the image is always raw. It is never guessed from the content, so a guest that writes the header of
/// another format into its disk gains nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "disk")]
pub struct BlockSpec {
    /// Image file or block device with the disk's bytes; the format is raw. A file's last block need not be whole.
    #[arg(
        long,
        visible_alias = "blk-file",
        value_name = "IMAGE",
        help_heading = "Disk"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Disk of this size in memory instead of an image; its content ends with the process.
    #[arg(long, value_name = "SIZE", help_heading = "Disk")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_disk: Option<ByteSize>,
    /// How the bytes are reached.
    #[arg(long, value_enum, default_value_t, help_heading = "Disk")]
    pub engine: EngineChoice,
    /// When a write counts as finished.
    #[arg(long, value_enum, default_value_t, help_heading = "Disk")]
    pub cache: CacheMode,
    /// Present the disk read-only and open the image so.
    #[arg(long, visible_alias = "read-only", help_heading = "Disk")]
    pub readonly: bool,
    /// Logical block size in bytes: 512 or 4096.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 512,
        help_heading = "Disk"
    )]
    pub block_size: u32,
    /// Physical block size in bytes that the guest is told.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 4096,
        help_heading = "Disk"
    )]
    pub physical_block_size: u32,
    /// Best size of a request in bytes that the guest is told; 0 says nothing.
    #[arg(long, value_name = "BYTES", default_value_t = 0, help_heading = "Disk")]
    pub optimal_io_size: u32,
    /// Request queues; one worker thread each.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Disk")]
    pub num_queues: u16,
    /// Largest ring that a front-end may give a queue, a power of two.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Disk")]
    pub queue_size: u16,
    /// Serial number that the guest sees, up to 20 ASCII characters; give one for live migration, or if the image may move
    /// [default: made from this host's machine-id and the image's absolute path].
    #[arg(long, value_name = "TEXT", help_heading = "Disk")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Let the guest give blocks back (hole punching or device discard).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Disk")]
    pub discard: bool,
    /// Let the guest zero ranges without sending zeroes.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Disk")]
    pub write_zeroes: bool,
    /// Lock the image against a second writer, from the start of the guest's first queue until it stops them all: the
    /// destination of a live migration waits, and can be asked meanwhile.
    #[arg(long, value_enum, default_value_t, help_heading = "Disk")]
    pub lock: LockChoice,
    /// Wait this long at a start for another to let go of its lock: a predecessor that is dying, a migration's source.
    #[arg(long, value_name = "MS", default_value_t = 3000, help_heading = "Disk")]
    pub lock_wait_ms: u32,
    /// Offer packed rings.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Disk")]
    pub packed: bool,
    /// Offer IN_ORDER: requests then complete in the order they came, which costs speed when they finish out of order.
    #[arg(long, help_heading = "Disk")]
    pub in_order: bool,
}

impl Default for BlockSpec {
    fn default() -> Self {
        Self {
            path: None,
            memory_disk: None,
            engine: EngineChoice::Auto,
            cache: CacheMode::Writeback,
            readonly: false,
            block_size: 512,
            physical_block_size: 4096,
            optimal_io_size: 0,
            num_queues: 1,
            queue_size: 1024,
            serial: None,
            discard: true,
            write_zeroes: true,
            lock: LockChoice::On,
            lock_wait_ms: 3000,
            packed: true,
            in_order: false,
        }
    }
}

/// Most requests that one queue has in flight; more wait in its ring.
const MAX_DEPTH: u16 = 512;

impl BlockSpec {
    /// Requests that one queue may have in flight.
    pub(crate) fn depth(&self) -> u16 {
        self.queue_size.min(MAX_DEPTH)
    }

    /// A disk over the image at `path`, all else by default.
    pub fn image(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// A disk of `bytes` in memory, all else by default.
    pub fn memory(bytes: u64) -> Self {
        Self {
            memory_disk: Some(ByteSize(bytes)),
            ..Self::default()
        }
    }

    /// Checks everything that needs no file; `Err` holds every fault found, each with its mend.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        match (&self.path, self.memory_disk) {
            (None, None) => faults.push("no disk named: give `path` or `memory-disk`".to_owned()),
            (Some(_), Some(_)) => {
                faults.push("`path` and `memory-disk` exclude each other: give one".to_owned());
            }
            _ => {}
        }
        self.check_sizes(&mut faults);
        if self.num_queues == 0 || self.num_queues > MAX_QUEUES {
            faults.push(format!(
                "`num-queues` is {}, give 1 to {MAX_QUEUES}",
                self.num_queues
            ));
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(4..=MAX_QUEUE_SIZE).contains(&size) {
            faults.push(format!(
                "`queue-size` is {size}, give a power of two from 4 to {MAX_QUEUE_SIZE}"
            ));
        }
        if let Some(serial) = &self.serial
            && (serial.len() > SERIAL_BYTES
                || !serial.chars().all(|c| c.is_ascii_graphic() || c == ' '))
        {
            faults.push(format!(
                "`serial` {serial:?} is not up to {SERIAL_BYTES} printable ASCII characters"
            ));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn check_sizes(&self, faults: &mut Vec<String>) {
        if !matches!(self.block_size, 512 | 4096) {
            faults.push(format!(
                "`block-size` is {}, give 512 or 4096",
                self.block_size
            ));
            return;
        }
        let physical = self.physical_block_size;
        if !physical.is_power_of_two() || physical < self.block_size || physical > 1 << 20 {
            faults.push(format!(
                "`physical-block-size` is {physical}, give a power of two from the block size to 1 MiB"
            ));
        }
        if !self.optimal_io_size.is_multiple_of(self.block_size) {
            faults.push(format!(
                "`optimal-io-size` is {}, give a multiple of the block size",
                self.optimal_io_size
            ));
        }
        if let Some(size) = self.memory_disk
            && (size.0 == 0
                || size.0 > i64::MAX.unsigned_abs()
                || !size.0.is_multiple_of(u64::from(self.block_size)))
        {
            faults.push(format!(
                "`memory-disk` is {size}, give a multiple of the block size that is not 0"
            ));
        }
    }
}
