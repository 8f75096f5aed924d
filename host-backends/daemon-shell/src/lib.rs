//! What every daemon of the workspace does alike: options, config file, sockets, logs, signals, sandbox, control socket,
//! exit codes.
//!
//! One rule: a daemon's own `main` says what its devices are, and nothing of what stands here ([`main`]).

pub mod capabilities;
mod commands;
pub mod config;
mod daemon;
mod descriptors;
mod error;
pub mod exit;
pub mod identity;
mod logging;
mod options;
mod program;
mod sandbox;
pub mod signals;
pub mod sockets;
mod state;

pub use config::DeviceSpec;
pub use daemon::Overseer;
pub use daemon::Served;
pub use daemon::Unit;
pub use daemon::begin;
pub use daemon::run;
pub use error::Error;
pub use exit::Exit;
pub use logging::LogFormat;
pub use options::ProcessSpec;
pub use options::ServiceSpec;
pub use program::Daemon;
pub use program::NothingShared;
pub use program::Opened;
pub use program::Program;
pub use program::SharedOptions;
pub use program::main;
pub use sandbox::Needs;
pub use sandbox::Sandbox;
pub use sockets::SocketSpec;
pub use state::StateFile;
pub use state::StateSpec;
