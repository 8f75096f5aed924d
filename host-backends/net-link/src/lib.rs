//! Where frames come from and go to outside the process: TAP interfaces, passt, packet sockets.
//!
//! One rule: a link moves whole frames with a virtio-net header in front; what a guest may send or see is decided
//! above it.

mod confined;
mod error;
mod interface;
mod link;
mod null;
mod packet;
mod passt;
mod ready;
mod source;
mod spans;
mod spec;
mod tap;

use std::os::fd::OwnedFd;

use nix::errno::Errno;

pub use confined::IOCTLS;
pub use confined::SYSCALLS;
pub use error::Error;
pub use interface::Interface;
pub use link::Capabilities;
pub use link::HEADER_BYTES;
pub use link::Link;
pub use link::MAX_FRAME;
pub use link::Offloads;
pub use link::Received;
pub use link::Sent;
pub use link::Watch;
pub use spec::LinkSpec;
pub use spec::PasstSpec;
pub use spec::TapSpec;

/// Opens the link that `spec` describes, one end per queue pair. To be called before the process is confined: it opens
/// devices and starts programs.
///
/// # Errors
/// When the host refuses; the text says what mends it.
pub fn open(spec: &LinkSpec, pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    match spec {
        LinkSpec::Null => (0..pairs.max(1))
            .map(|_| Ok(Box::new(null::NullLink::new()?) as Box<dyn Link>))
            .collect(),
        LinkSpec::Source(bytes) => (0..pairs.max(1))
            .map(|_| Ok(Box::new(source::SourceLink::new(*bytes)?) as Box<dyn Link>))
            .collect(),
        LinkSpec::Tap(tap) => tap::open(tap, pairs),
        LinkSpec::Fd(numbers) => inherited(spec, numbers, pairs),
        LinkSpec::Passt(passt) => passt::open(passt, pairs),
        LinkSpec::Packet(interface) => packet::open(interface, pairs),
    }
}

/// Finds out what the descriptors are and uses them.
fn inherited(spec: &LinkSpec, numbers: &[i32], pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    let max = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
    tap::check_pairs(&spec.to_string(), max, pairs)?;
    let files: Result<Vec<OwnedFd>, Errno> = numbers
        .iter()
        .take(usize::from(pairs.max(1)))
        .map(|number| tap::sys::adopt(*number))
        .collect();
    let files = files.map_err(|errno| Error::Open {
        link: spec.to_string(),
        source: errno.into(),
    })?;
    let is_socket = |file: &OwnedFd| {
        let mode = nix::sys::stat::fstat(file).map(|stat| stat.st_mode & libc::S_IFMT);
        mode == Ok(libc::S_IFSOCK)
    };
    if !files.iter().any(is_socket) {
        return tap::adopt(files, spec);
    }
    let mut files = files.into_iter();
    match (files.next(), files.next()) {
        (Some(socket), None) => passt::adopt(socket),
        _ => Err(Error::Pairs {
            link: spec.to_string(),
            max: 1,
            asked: pairs,
        }),
    }
}

#[cfg(test)]
mod tests;
