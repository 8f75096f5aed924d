//! The control protocol that daemons and VMs speak alike: one request per line in, one JSON object per line out.
//!
//! One rule: a request is read once, where it enters a process, and is a value from there on; what `ctl` reads from
//! words, what the VMM passes on and what a daemon carries out is one [`Command`].
#![forbid(unsafe_code)]

mod client;
mod command;
mod error;
mod listen;
pub mod schema;
mod serve;
mod settings;
mod values;

pub use client::Reply;
pub use client::ask;
pub use command::Command;
pub use command::Response;
pub use error::Error;
pub use listen::Access;
pub use listen::bind;
pub use listen::bind_private;
pub use serve::Answer;
pub use serve::Answers;
pub use serve::THREAD;
pub use serve::serve;
pub use settings::BalloonSettings;
pub use settings::Changes;
pub use settings::NetSettings;
pub use settings::PoolSettings;
pub use settings::Settings;
pub use settings::Settled;
pub use values::Bytes;
pub use values::LinkState;
pub use values::Policy;
pub use values::Toggle;
