//! Parameters, memory layout and restart state of a queue.
//!
//! One rule: a [`QueueConfig`] that a queue accepted was checked by [`QueueConfig::check`], so
//! later code may rely on the size being in range.

use virtio_spec::feature;
use virtio_spec::ring;

use crate::error::ConfigError;
use crate::index;
use crate::index::PackedPosition;

/// Ring format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Split (virtio 1.4 sec. 2.7).
    Split,
    /// Packed (virtio 1.4 sec. 2.8).
    Packed,
}

/// Parameters of a queue, fixed while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueConfig {
    /// Entries: 1 to 32768, a power of two when split.
    pub size: u16,
    /// Ring format.
    pub format: Format,
    /// Notifications are suppressed by index (`RING_EVENT_IDX`).
    pub event_idx: bool,
    /// Indirect tables are allowed (`RING_INDIRECT_DESC`).
    pub indirect: bool,
    /// Buffers are used in the order they were made available (`IN_ORDER`).
    pub in_order: bool,
}

/// Size and alignment of one ring area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// The three areas of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Descriptor area.
    pub descriptors: Area,
    /// Driver area: available ring, or driver event suppression.
    pub driver: Area,
    /// Device area: used ring, or device event suppression.
    pub device: Area,
}

impl QueueConfig {
    /// The parameters that negotiated `features` give a queue of `size` entries.
    ///
    /// # Errors
    /// When the format does not allow `size`.
    pub fn from_features(size: u16, features: u64) -> Result<Self, ConfigError> {
        let has = |mask| features & mask != 0;
        let config = Self {
            size,
            format: if has(feature::RING_PACKED) {
                Format::Packed
            } else {
                Format::Split
            },
            event_idx: has(feature::RING_EVENT_IDX),
            indirect: has(feature::RING_INDIRECT_DESC),
            in_order: has(feature::IN_ORDER),
        };
        config.check()?;
        Ok(config)
    }

    /// Whether a queue can have these parameters (sec. 2.7, 2.8).
    ///
    /// # Errors
    /// When `size` is 0, above 32768, or split and not a power of two.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.size == 0 {
            return Err(ConfigError::SizeZero);
        }
        if self.size > ring::SIZE_MAX {
            return Err(ConfigError::SizeTooLarge);
        }
        if self.format == Format::Split && !self.size.is_power_of_two() {
            return Err(ConfigError::SizeNotPowerOfTwo);
        }
        Ok(())
    }

    /// Sizes and alignments of the areas (sec. 2.7, 2.8.10.1).
    ///
    /// The event fields at the end of split areas count always: sec. 2.7 reserves them.
    pub fn layout(&self) -> Layout {
        let descriptors = size_of::<ring::Descriptor>() * usize::from(self.size);
        match self.format {
            Format::Split => Layout {
                descriptors: Area {
                    size: descriptors,
                    align: ring::split_alignment::DESCRIPTORS,
                },
                driver: Area {
                    size: ring::avail::used_event(self.size) + 2,
                    align: ring::split_alignment::DRIVER,
                },
                device: Area {
                    size: ring::used::avail_event(self.size) + 2,
                    align: ring::split_alignment::DEVICE,
                },
            },
            Format::Packed => Layout {
                descriptors: Area {
                    size: descriptors,
                    align: ring::packed_alignment::DESCRIPTORS,
                },
                driver: Area {
                    size: size_of::<ring::EventSuppression>(),
                    align: ring::packed_alignment::DRIVER,
                },
                device: Area {
                    size: size_of::<ring::EventSuppression>(),
                    align: ring::packed_alignment::DEVICE,
                },
            },
        }
    }
}

/// Where a device half stands: what it takes next and what it uses next.
///
/// `avail` and `used` are free-running indices when split; when packed each is an encoded
/// [`PackedPosition`] (slot in bits 0 to 14, wrap counter in bit 15). `avail` ahead of `used`
/// means chains in flight: they have to be replayed, see
/// [`DeviceQueue::replay`](crate::DeviceQueue::replay).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueState {
    /// Next entry to take.
    pub avail: u16,
    /// Next entry to use.
    pub used: u16,
}

impl QueueState {
    /// The state after a reset.
    pub fn fresh(format: Format) -> Self {
        match format {
            Format::Split => Self { avail: 0, used: 0 },
            Format::Packed => {
                let start = PackedPosition::START.encode();
                Self {
                    avail: start,
                    used: start,
                }
            }
        }
    }

    /// The vring base of vhost-user `GET_VRING_BASE` and `SET_VRING_BASE`.
    pub fn encode(&self, format: Format) -> u32 {
        match format {
            Format::Split => u32::from(self.avail),
            Format::Packed => u32::from(self.avail) | u32::from(self.used) << 16,
        }
    }

    /// The state a vring base stands for. A split base does not hold the used index: it is taken
    /// to be equal, as when nothing is in flight.
    ///
    /// # Errors
    /// When `base` is no state of a queue of this `config`.
    pub fn decode(config: &QueueConfig, base: u32) -> Result<Self, ConfigError> {
        let state = match config.format {
            Format::Split => {
                let avail = u16::try_from(base).map_err(|_| ConfigError::State)?;
                Self { avail, used: avail }
            }
            Format::Packed => Self {
                avail: base as u16,
                used: (base >> 16) as u16,
            },
        };
        state.outstanding(config)?;
        Ok(state)
    }

    /// How many entries (split: chains; packed: descriptors) are taken and not used.
    ///
    /// # Errors
    /// When the two are further apart than the queue is long.
    pub fn outstanding(&self, config: &QueueConfig) -> Result<u16, ConfigError> {
        match config.format {
            Format::Split => index::pending(self.used, self.avail, config.size),
            Format::Packed => {
                let used = PackedPosition::decode(self.used, config.size);
                let avail = PackedPosition::decode(self.avail, config.size);
                match (used, avail) {
                    (Some(used), Some(avail)) => used.distance(avail, config.size),
                    _ => None,
                }
            }
        }
        .ok_or(ConfigError::State)
    }
}
