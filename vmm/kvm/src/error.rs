//! What can go wrong between us and KVM. One rule: a message names the request that failed.

/// An error of the KVM layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM cannot be used at all.
    #[error("Cannot use {path}: {source}")]
    Unavailable {
        /// The device node that was opened.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// KVM lacks something without which no VM can run.
    #[error("KVM lacks {0}")]
    Missing(&'static str),
    /// A KVM request failed.
    #[error("{request} failed: {source}")]
    Request {
        /// The name of the ioctl.
        request: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Guest memory could not be made or used.
    #[error("Guest memory cannot be used")]
    Memory(#[source] host_os::Error),
    /// An access or a slot lies outside its memory.
    #[error("Range {offset:#x}+{len:#x} lies outside the memory")]
    OutOfRange {
        /// First byte, relative to the memory.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl Error {
    /// Wraps an error number of a system call on guest memory.
    pub(crate) fn memory(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| {
            Self::Memory(host_os::Error::System {
                call,
                source: errno.into(),
            })
        }
    }

    /// Wraps an error number of `kvm-ioctls` with the request's name.
    pub(crate) fn request(request: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Request {
            request,
            source: error.into(),
        }
    }
}
