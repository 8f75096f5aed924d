//! Exit codes of the process.
//!
//! One rule: ours are those of sysexits.h (64 and up), so that the low codes are free for the guest's debug exit.

/// The guest switched off, or was told to stop.
pub(crate) const SUCCESS: u8 = 0;
/// The command line or the VM's description is wrong (EX_USAGE).
pub(crate) const USAGE: u8 = 64;
/// A file cannot be read, or is not a kernel (EX_NOINPUT).
pub(crate) const NO_INPUT: u8 = 66;
/// Standard output cannot be written (EX_IOERR).
pub(crate) const OUTPUT: u8 = 74;
/// KVM or a device's backend is not there (EX_UNAVAILABLE).
pub(crate) const UNAVAILABLE: u8 = 69;
/// KVM could not go on with the guest (EX_SOFTWARE).
pub(crate) const FAILED: u8 = 70;
