//! The balloon device (virtio 1.4 sec. 5.5): pages given back to the host, statistics taken from the guest.
//!
//! One rule: a page is released only if it lies wholly inside guest memory, the guest gave it up, and it cannot use it at
//! that moment.
//!
//! A balloon is described by a [`BalloonSpec`] and made by [`BalloonDevice::new`]; the session above then serves it as a
//! [`device_model::Device`]. Its target moves by [`BalloonDevice::set_target`]; what the guest says of its memory is in
//! [`BalloonDevice::statistics`].
//!
//! What a restarted daemon does not know: which pages are in the balloon, and, unless it is told
//! ([`BalloonDevice::recall`]), `actual`, which the guest writes only when the balloon changes. Pages that then leave the balloon count as unknown, which is harmless, and huge pages that were
//! given up by halves stay until the guest gives up all of them again. [`device_model::Device::save_state`] carries both
//! to a twin on another host.
//!
//! Page zero is never released: broken drivers name it by mistake, and working ones do not.

mod balloon;
mod config;
mod counters;
mod device;
mod error;
mod handler;
mod hints;
mod numbers;
mod pages;
mod spec;
mod state;
mod statistics;

pub use counters::Metrics;
pub use device::BalloonDevice;
pub use error::Error;
pub use hints::HintState;
pub use host_os::ByteSize;
pub use spec::BalloonSpec;
pub use spec::MAX_QUEUE_SIZE;
pub use spec::MIN_STATS_INTERVAL_MS;
pub use spec::Repopulate;
pub use statistics::Statistics;

#[cfg(test)]
mod tests;
