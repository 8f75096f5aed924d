//! Where frames come from and go to outside the process.
//!
//! One rule: a link moves whole frames with a virtio-net header in front; what a guest may send or
//! see is decided above it.
