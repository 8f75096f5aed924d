//! How many descriptors the process may hold.
//!
//! Rule: what the system allows is what counts, not what it gives by default: a session holds a descriptor for each file
//! of guest memory and several for each queue, and a daemon has many sessions.

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;

/// Raises the limit to what may be had without privileges. A daemon that cannot goes on with what it has.
pub(crate) fn allow_all() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit of open files is not known"),
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => tracing::debug!(before = soft, now = hard, "open files allowed"),
        Err(error) => tracing::warn!(%error, soft, hard, "the limit of open files stays"),
    }
}
