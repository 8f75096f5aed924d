//! The available-buffer notification of one queue (virtio 1.4 sec. 4.1.5.2).
//!
//! Rule: the position was checked when the queue was set up; ringing is one store and cannot fail.
use driver_platform::Mmio;

/// What is written when the queue is rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The queue's index, 16 bits.
    Index(u16),
    /// `le32` with the queue's name in the low half and the ring position in the high half (NOTIFICATION_DATA).
    Data(u16),
}

/// Tells the device that a queue has new buffers. One per queue, usable from any processor.
#[derive(Clone, Debug)]
pub struct Doorbell<B> {
    pub(crate) bar: B,
    pub(crate) offset: u64,
    pub(crate) payload: Payload,
}

impl<B: Mmio> Doorbell<B> {
    /// Rings. `position` is the upper half of the notification data (`next_off` and, for a packed ring, the wrap counter); it is
    /// used only when NOTIFICATION_DATA was negotiated.
    pub fn ring(&self, position: u16) {
        match self.payload {
            Payload::Index(name) => self.bar.write_u16(self.offset, name),
            Payload::Data(name) => {
                self.bar
                    .write_u32(self.offset, u32::from(name) | u32::from(position) << 16);
            }
        }
    }
}
