//! What can be wrong with a file. Rule: a message begins with the place.

use std::path::PathBuf;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("Cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {message}")]
    Fault {
        /// File, line and key.
        place: String,
        /// What is wrong.
        message: String,
    },
}
