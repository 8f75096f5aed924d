//! MSI-X: the vector table and pending bits in a BAR, each vector joined to an interrupt line.
//!
//! One rule: a vector's line delivers exactly when MSI-X is on and neither the function nor the vector is masked;
//! otherwise events stay in the line's descriptor, which is the pending bit.

use std::sync::Arc;

use host_os::EventFd;

use super::ConfigSpace;
use crate::InterruptLine;
use crate::Interrupts;
use crate::MsiMessage;
use crate::Result;

/// Capability id of MSI-X.
const MSIX: u8 = 0x11;
/// Bytes per table entry.
const ENTRY: u64 = 16;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;

/// Where table and pending bits lie.
#[derive(Debug, Clone, Copy)]
pub struct MsixLayout {
    /// BAR of the table.
    pub table_bar: u8,
    /// Offset of the table, 8-byte aligned.
    pub table_offset: u32,
    /// BAR of the pending bits.
    pub pba_bar: u8,
    /// Offset of the pending bits, 8-byte aligned.
    pub pba_offset: u32,
}

struct Vector {
    line: Box<dyn InterruptLine>,
    message: MsiMessage,
    masked: bool,
}

/// The MSI-X state of one function.
pub struct Msix {
    vectors: Vec<Vector>,
    capability: u16,
    enabled: bool,
    masked: bool,
}

impl Msix {
    /// Allocates `vectors` lines (1 to 2048) and adds the capability to `config`.
    pub fn new(
        interrupts: &Arc<dyn Interrupts>,
        vectors: u16,
        layout: MsixLayout,
        config: &mut ConfigSpace,
    ) -> Result<Self> {
        let count = vectors.clamp(1, 2048);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(count - 1).to_le_bytes());
        let table = (layout.table_offset & !7) | u32::from(layout.table_bar & 7);
        let pba = (layout.pba_offset & !7) | u32::from(layout.pba_bar & 7);
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pba.to_le_bytes());
        let capability = config.add_capability(MSIX, &body, &[0x00, 0xc0])?;
        let vector = |_| {
            Ok(Vector {
                line: interrupts.allocate()?,
                message: MsiMessage::default(),
                masked: true,
            })
        };
        Ok(Self {
            vectors: (0..count).map(vector).collect::<Result<_>>()?,
            capability,
            enabled: false,
            masked: false,
        })
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The descriptor that raises `vector`; None for numbers that do not exist (as virtio's NO_VECTOR).
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        Some(self.vectors.get(usize::from(vector))?.line.event())
    }

    /// Raises `vector`; numbers that do not exist are ignored.
    pub fn trigger(&self, vector: u16) {
        if let Some(event) = self.event(vector) {
            event.notify();
        }
    }

    /// Follows the enable and mask bits after the guest wrote config space.
    pub fn config_written(&mut self, config: &ConfigSpace) {
        let control = config.u16_at(usize::from(self.capability) + 2);
        let enabled = control & CONTROL_ENABLE != 0;
        let masked = control & CONTROL_MASK_ALL != 0;
        if enabled && !self.enabled {
            self.forget_pending();
        }
        if (enabled, masked) != (self.enabled, self.masked) {
            self.enabled = enabled;
            self.masked = masked;
            for index in 0..self.vectors.len() {
                self.apply(index);
            }
        }
    }

    /// True while the guest has MSI-X switched on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// A guest read in the table, `offset` relative to its start.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        for (step, byte) in (0..).zip(data.iter_mut()) {
            let at = offset.saturating_add(step);
            let entry = usize::try_from(at / ENTRY).unwrap_or(usize::MAX);
            let raw = self.vectors.get(entry).map_or([0; 16], Vector::encode);
            *byte = raw.get((at % ENTRY) as usize).copied().unwrap_or(0);
        }
    }

    /// A guest write in the table, `offset` relative to its start. Any length and alignment.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let entry = usize::try_from(at / ENTRY).unwrap_or(usize::MAX);
            let within = (at % ENTRY) as usize;
            let count = rest.len().min(16 - within);
            let Some((now, later)) = rest.split_at_checked(count) else {
                return;
            };
            let Some(vector) = self.vectors.get_mut(entry) else {
                return;
            };
            let mut raw = vector.encode();
            raw.iter_mut()
                .skip(within)
                .zip(now)
                .for_each(|(to, from)| *to = *from);
            vector.decode(&raw);
            self.apply(entry);
            rest = later;
            at = at.saturating_add(count as u64);
        }
    }

    /// A guest read of the pending bits, `offset` relative to their start. Guest writes to them are ignored.
    pub fn pba_read(&self, offset: u64, data: &mut [u8]) {
        for (step, byte) in (0..).zip(data.iter_mut()) {
            let at = offset.saturating_add(step);
            let first = usize::try_from(at.saturating_mul(8)).unwrap_or(usize::MAX);
            *byte = (0..8u8).fold(0, |bits, bit| {
                let pending = self
                    .vectors
                    .get(first.saturating_add(usize::from(bit)))
                    .is_some_and(|vector| {
                        !self.delivers(vector) && vector.line.event().is_pending()
                    });
                bits | (u8::from(pending) << bit)
            });
        }
    }

    /// Power-on state: everything masked, nothing pending.
    pub fn reset(&mut self) {
        self.enabled = false;
        self.masked = false;
        for index in 0..self.vectors.len() {
            if let Some(vector) = self.vectors.get_mut(index) {
                vector.message = MsiMessage::default();
                vector.masked = true;
            }
            self.apply(index);
        }
        self.forget_pending();
    }

    fn delivers(&self, vector: &Vector) -> bool {
        self.enabled && !self.masked && !vector.masked
    }

    fn apply(&self, index: usize) {
        let Some(vector) = self.vectors.get(index) else {
            return;
        };
        let result = if self.delivers(vector) {
            vector.line.unmask(vector.message)
        } else {
            vector.line.mask()
        };
        if let Err(error) = result {
            tracing::warn!(vector = index, %error, "MSI-X vector could not be routed");
        }
    }

    fn forget_pending(&self) {
        for vector in &self.vectors {
            let _ = vector.line.event().drain();
        }
    }
}

impl Vector {
    fn encode(&self) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&self.message.address.to_le_bytes());
        raw[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        raw[12] = u8::from(self.masked);
        raw
    }

    fn decode(&mut self, raw: &[u8; 16]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, control, ..] = *raw;
        // Bits 1:0 of the address must be zero; we make them so.
        self.message.address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]) & !3;
        self.message.data = u32::from_le_bytes([d0, d1, d2, d3]);
        self.masked = control & 1 != 0;
    }
}

#[cfg(test)]
#[path = "msix_tests.rs"]
pub(crate) mod tests;
