//! The write cache as the driver set it (CONFIG_WCE), kept where it outlives the session and this process.
//!
//! Rule: a driver that chose write-through sends no flush any more, so its choice lasts until it resets the device,
//! whoever serves it. Where nobody can tell whether it is still the same driver, the choice stays: slow is safe.

use std::sync::Mutex;
use std::sync::MutexGuard;

use device_model::DeviceRecord;
use host_os::sync::lock;
use virtio_spec::block::feature as block;

/// Bytes of the record over the process's death: the field `writeback`.
pub(crate) const RECORD_BYTES: u32 = 1;
/// First byte of a state that moves to another host.
const STATE_VERSION: u8 = 1;
/// In such a state: the driver chose nothing.
const NO_CHOICE: u8 = 2;

/// The cache of one disk.
#[derive(Debug)]
pub(crate) struct WriteCache {
    /// Whether it is on for a driver that can flush and says nothing.
    default: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    acked: u64,
    /// `writeback` as the driver wrote it.
    choice: Option<(bool, Origin)>,
    record: Option<DeviceRecord>,
}

/// Where a choice comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The driver made it in this session.
    Driver,
    /// It came with the guest, from another host.
    Migration,
    /// It was made in another session, or another life of this daemon.
    Before,
}

impl WriteCache {
    pub fn new(default: bool) -> Self {
        Self {
            default,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The features that the driver accepted.
    pub fn set_acked(&self, features: u64) {
        self.lock().acked = features;
    }

    pub fn acked(&self) -> u64 {
        self.lock().acked
    }

    /// The field `writeback` of the configuration.
    pub fn writeback(&self) -> bool {
        let inner = self.lock();
        let can_flush = inner.acked & block::FLUSH != 0;
        match inner.choice {
            Some((false, _)) => false,
            Some((true, Origin::Driver)) => true,
            Some((true, _)) if can_flush => true,
            // Sec. 5.2.5.2: a driver that has the switch and cannot flush starts without a write cache.
            _ => self.default && (can_flush || inner.acked & block::CONFIG_WCE == 0),
        }
    }

    /// The driver writes the field.
    pub fn choose(&self, writeback: bool) {
        let mut inner = self.lock();
        inner.choice = Some((writeback, Origin::Driver));
        inner.commit();
    }

    /// The driver's reset: its choice is void.
    pub fn reset(&self) {
        let mut inner = self.lock();
        (inner.acked, inner.choice) = (0, None);
        inner.commit();
    }

    /// The front-end is gone; it may come back with the same driver.
    pub fn session_ended(&self) {
        let mut inner = self.lock();
        (inner.acked, inner.record) = (0, None);
        inner.choice = inner
            .choice
            .map(|(writeback, _)| (writeback, Origin::Before));
    }

    /// Where the choice is kept from now on. A record without one is that of a driver that made none.
    pub fn keep_in(&self, record: Option<DeviceRecord>) {
        let mut inner = self.lock();
        let Some(record) = record else {
            inner.record = None;
            return;
        };
        if !matches!(inner.choice, Some((_, Origin::Driver | Origin::Migration))) {
            inner.choice = match record.load().as_deref() {
                Some([0]) => Some((false, Origin::Before)),
                Some([1]) => Some((true, Origin::Before)),
                _ => None,
            };
        }
        inner.record = Some(record);
        inner.commit();
    }

    /// What another host has to know.
    pub fn save(&self) -> Vec<u8> {
        let choice = self.lock().choice;
        vec![
            STATE_VERSION,
            choice.map_or(NO_CHOICE, |(writeback, _)| writeback.into()),
        ]
    }

    /// Takes over what [`Self::save`] gave; `None` if it is no such thing.
    pub fn load(&self, state: &[u8]) -> Option<()> {
        let choice = match state {
            [STATE_VERSION, NO_CHOICE] => None,
            [STATE_VERSION, value @ (0 | 1)] => Some((*value == 1, Origin::Migration)),
            _ => return None,
        };
        let mut inner = self.lock();
        inner.choice = choice;
        inner.commit();
        Some(())
    }
}

impl Inner {
    fn commit(&self) {
        match (&self.record, self.choice) {
            (Some(record), Some((writeback, _))) => {
                // Room for it was asked for; a file with less is another's.
                let _ = record.store(&[writeback.into()]);
            }
            (Some(record), None) => record.clear(),
            (None, _) => {}
        }
    }
}
