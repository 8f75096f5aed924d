//! The vhost-user wire protocol as plain values: codes, payloads, typed messages, encode and decode for both ends.
//!
//! One rule: nothing here opens, reads or writes a file descriptor. A message is bytes plus a count of
//! descriptors; each end moves those over its own socket. Unknown wire values round-trip.
//!
//! Specification: QEMU `docs/interop/vhost-user.rst`, called "the vhost-user document" below.
//! All integers are in host byte order, as the document says.
#![forbid(unsafe_code)]

mod codes;
mod error;
pub mod feature;
mod header;
pub mod inflight;
mod message;
mod payload;
mod reply;

pub use codes::BackendRequest;
pub use codes::Request;
pub use error::Error;
pub use header::HEADER_SIZE;
pub use header::Header;
pub use header::HeaderFlags;
pub use message::BackendMessage;
pub use message::FdRule;
pub use message::FrontendMessage;
pub use payload::ConfigSpace;
pub use payload::DeviceStatePhase;
pub use payload::DeviceStateTransfer;
pub use payload::Inflight;
pub use payload::LogBase;
pub use payload::MemoryRegion;
pub use payload::TransferDirection;
pub use payload::VringAddress;
pub use payload::VringFd;
pub use payload::VringState;
pub use payload::config_flags;
pub use payload::vring_flags;
pub use reply::Reply;

/// Largest payload either end accepts, in bytes.
pub const MAX_PAYLOAD: usize = 4096;
/// Most descriptors that may ride on one message (`SET_MEM_TABLE` needs one per region).
pub const MAX_FDS: usize = 32;
/// Most regions in one `SET_MEM_TABLE` that this crate decodes; the document's baseline is 8.
pub const MAX_TABLE_REGIONS: usize = 32;
/// Most configuration-space bytes in one `GET_CONFIG`/`SET_CONFIG`.
pub const MAX_CONFIG_BYTES: usize = 256;

#[cfg(test)]
mod tests;
