//! Device ids (virtio 1.4 sec. 5, "Device Types").
//!
//! One rule: only ids this workspace serves or drives stand here.

/// Network card (sec. 5.1.1).
pub const NET: u32 = 1;
/// Block device (sec. 5.2.1).
pub const BLOCK: u32 = 2;
/// Traditional memory balloon (sec. 5.5.1).
pub const BALLOON: u32 = 5;
