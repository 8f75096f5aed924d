//! What the driver ordered, kept where it outlives this process (`device_model::DeviceRecord`), and taken up by the next.
//!
//! Rule: what comes back was in another's hands: each order passes the checks that it passed when the driver gave it.
//!
//! Only the last order of each kind is kept, in the order in which they came: each setting is then what its last writer
//! made it.

use std::sync::Mutex;

use device_model::DeviceRecord;
use host_os::sync::lock;
use virtio_spec::net::control::class;
use virtio_spec::net::control::coalescing;

/// Room for every kind of order at its longest: an address table of [`super::MAX_REQUEST`] bytes, all VLANs, RSS, the
/// moderation of each queue.
pub(crate) const RECORD_BYTES: u32 = 64 << 10;

/// The orders of one driver.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The features of the driver that gave the orders; `None` as long as it did not have the control queue.
    features: Option<u64>,
    /// Requests as they came.
    orders: Vec<Vec<u8>>,
    record: Option<DeviceRecord>,
}

impl Journal {
    /// Where orders are kept from now on. Those that are known go there; what is there already waits for
    /// [`Self::left_by_another_life`] if none are.
    pub fn keep_in(&self, record: Option<DeviceRecord>) {
        let mut inner = lock(&self.inner);
        inner.record = record;
        if inner.features.is_some() {
            inner.commit();
        }
    }

    /// The orders that a driver with these features gave to another life of this card; `None` if it had no control queue
    /// or was another driver.
    pub fn left_by_another_life(&self, features: u64) -> Option<Vec<Vec<u8>>> {
        let inner = lock(&self.inner);
        if inner.features.is_some() {
            return None;
        }
        let state = inner.record.as_ref()?.load()?;
        let (theirs, orders) = state.split_first_chunk()?;
        (u64::from_le_bytes(*theirs) == features).then(|| decode(orders))
    }

    /// A driver with these features has the control queue, and gave these orders.
    pub fn begin(&self, features: u64, orders: Vec<Vec<u8>>) {
        let mut inner = lock(&self.inner);
        inner.features = Some(features);
        inner.orders = orders;
        inner.commit();
    }

    /// The driver's order was carried out.
    pub fn remember(&self, order: &[u8]) {
        let mut inner = lock(&self.inner);
        let kind = kind(order);
        inner.orders.retain(|known| self::kind(known) != kind);
        inner.orders.push(order.to_vec());
        inner.commit();
    }

    /// A queue starts anew: its moderation is void.
    pub fn forget_moderation(&self, queue: u16) {
        let mut inner = lock(&self.inner);
        let kind = Kind::Moderation(queue.to_le_bytes());
        let before = inner.orders.len();
        inner.orders.retain(|known| self::kind(known) != kind);
        if inner.orders.len() != before {
            inner.commit();
        }
    }

    /// Forgets everything: the driver does too.
    pub fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.features = None;
        inner.orders.clear();
        if let Some(record) = &inner.record {
            record.clear();
        }
    }
}

impl Inner {
    fn commit(&self) {
        let (Some(record), Some(features)) = (&self.record, self.features) else {
            return;
        };
        let mut state = features.to_le_bytes().to_vec();
        for order in &self.orders {
            let len = u16::try_from(order.len()).unwrap_or(0);
            state.extend_from_slice(&len.to_le_bytes());
            state.extend_from_slice(order.get(..len.into()).unwrap_or(&[]));
        }
        if !record.store(&state) {
            // The file is another's, with less room: better nothing than what is no longer true.
            record.clear();
        }
    }
}

/// Cuts what [`Inner::commit`] put together; what makes no sense ends it.
fn decode(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut orders = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes(*len));
        let Some((order, rest)) = rest.split_at_checked(len) else {
            break;
        };
        orders.push(order.to_vec());
        bytes = rest;
    }
    orders
}

/// Orders of one kind replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vlan([u8; 2]),
    Moderation([u8; 2]),
    Command(u8, u8),
    None,
}

fn kind(order: &[u8]) -> Kind {
    match *order {
        [class::VLAN, _, low, high, ..] => Kind::Vlan([low, high]),
        [class::NOTF_COAL, coalescing::VQ_SET, low, high, ..] => Kind::Moderation([low, high]),
        [class, command, ..] => Kind::Command(class, command),
        _ => Kind::None,
    }
}
