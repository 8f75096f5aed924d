//! The vhost-user session: socket, state, queue workers.
//!
//! One rule: whatever arrives on the socket or in guest memory, the process goes on, the device's other queues go on,
//! and the next front-end finds a device that serves it.
//!
//! Untrusted bytes enter in one place, [`Server::serve_stream`]: a fuzzer needs one end of a socket pair.
#![forbid(unsafe_code)]

mod backend_channel;
mod connection;
mod error;
mod options;
mod polling;
mod rate_limit;
mod server;
mod session;
mod shutdown;
mod state_transfer;
mod statistics;
mod vring;
mod worker;

pub use error::Error;
pub use options::Options;
pub use options::Polling;
pub use server::Server;
pub use shutdown::ShutdownHandle;
pub use statistics::SessionStatistics;
pub use statistics::Statistics;
