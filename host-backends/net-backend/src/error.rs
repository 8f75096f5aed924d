//! What can go wrong with a network card, apart from single frames.
//!
//! Rule: an error names what the user wrote.

use std::path::PathBuf;

use crate::MacAddress;

/// Why a card, a switch or one of their parts cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification is wrong; every fault with its mend
    #[error("Network card specification is wrong: {}", .0.join("; "))]
    Spec(Vec<String>),
    /// The file for a recording cannot be made
    #[error("Cannot make the capture file {path}")]
    Capture {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A switch has no room for a further port
    #[error("The switch {switch} has {max} ports at most")]
    SwitchFull {
        /// Its name.
        switch: String,
        /// What it has room for.
        max: usize,
    },
    /// Two ports of one switch cannot have the same address
    #[error("The address {mac} is that of {port} on this switch: give each its own `mac`")]
    AddressTaken {
        /// The address.
        mac: MacAddress,
        /// The port that has it.
        port: String,
    },
    /// The link of the card or switch cannot be used
    #[error("The link cannot be used")]
    Link(#[from] net_link::Error),
    /// Memory for the switch is not to be had
    #[error("Memory for the switch is not to be had")]
    Memory(#[from] guest_memory::Error),
    /// A descriptor or a thread is not to be had
    #[error("A descriptor or a thread is not to be had")]
    Os(#[from] host_os::Error),
}
