//! What a card is asked to be, and where the daemon keeps what `set` changed of it.

use clap::Args;
use config_file::Section;
use daemon_shell::StateSpec;
use net_backend::NetSpec;
use serde::Serialize;

/// One network card.
#[derive(Clone, Debug, Serialize, Args)]
pub struct CardSpec {
    /// The card.
    #[command(flatten)]
    #[serde(flatten)]
    pub net: NetSpec,
    /// What outlives the daemon.
    #[command(flatten)]
    #[serde(flatten)]
    pub state: StateSpec,
}

impl CardSpec {
    /// Reads a device's table.
    ///
    /// # Errors
    /// A key or value is wrong.
    pub fn read(mut table: Section<'_>) -> Result<Self, config_file::Error> {
        Ok(Self {
            state: table.take(&StateSpec::KEYS).read()?,
            net: table.read()?,
        })
    }
}
