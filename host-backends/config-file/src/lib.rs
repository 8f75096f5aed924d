//! Configuration in TOML whose faults name the file, the line and the key.
//!
//! A program may write what a person told it into a file for another program: `paravane run` does, for its daemons. The
//! table [`ORIGIN`] of such a file says where each key comes from, and faults name that place rather than the file.
//!
//! One rule: what is read is read once, with its positions; a fault never names a place that the person has not written.
#![forbid(unsafe_code)]

mod error;
mod places;
mod section;

use std::path::Path;
use std::path::PathBuf;

pub use error::Error;
pub use places::Places;
pub use section::Section;

/// The table that says where keys come from: from a key's path, such as `device.0.path`, to the place in words.
pub const ORIGIN: &str = "origin";

/// A file's text.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::new(path, text))
    }

    /// `text`, which came from `path`.
    pub fn new(path: &Path, text: impl Into<String>) -> Self {
        let (path, text) = (path.to_owned(), text.into());
        Self { path, text }
    }

    /// The file's root table.
    ///
    /// # Errors
    /// It is no TOML.
    pub fn root(&self) -> Result<Section<'_>, Error> {
        Section::root(&self.path, &self.text)
    }
}

#[cfg(test)]
mod tests;
