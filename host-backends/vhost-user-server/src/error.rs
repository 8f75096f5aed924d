//! The crate's error. One rule: only what ends `serve` is an error here; a front-end's mistakes are answered and counted.

use std::io;

/// Why serving could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device describes itself in a way that the protocol cannot carry
    #[error("The device has {0}")]
    Device(&'static str),
    /// A queue's handler broke down twice, and what it held of the device cannot be had back
    #[error(
        "A queue is lost: its handler panicked, and panicked again while it was ended. Start this process anew"
    )]
    Lost,
    /// An event descriptor could not be made
    #[error("No descriptor for events")]
    Events(#[from] host_os::Error),
    /// The listening socket failed
    #[error("{call} failed on the socket")]
    Socket {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
