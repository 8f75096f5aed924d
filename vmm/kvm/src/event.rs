//! Event descriptors as kvm-ioctls wants them.
//!
//! Rule: the descriptor stays its owner's: it is lent for one call.
#![expect(
    unsafe_code,
    reason = "lending a descriptor to a type that would own it"
)]

use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;

use host_os::EventFd;
use vmm_sys_util::eventfd::EventFd as OwningEventFd;

/// Calls `with` with `event` as the type that kvm-ioctls takes.
pub(crate) fn lend<T>(event: &EventFd, with: impl FnOnce(&OwningEventFd) -> T) -> T {
    // SAFETY: the descriptor is open during the call, for `event` is borrowed; never dropped, the value does not close it.
    let lent = ManuallyDrop::new(unsafe { OwningEventFd::from_raw_fd(event.as_raw_fd()) });
    with(&lent)
}
