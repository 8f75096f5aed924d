//! The vhost-user session: socket, state, queue workers.
//!
//! One rule: whatever arrives on the socket or in guest memory, the process goes on, the device's other queues go on,
//! and the next front-end finds a device that serves it.
#![forbid(unsafe_code)]

mod error;
mod options;
mod server;
mod shutdown;

pub use error::Error;
pub use options::Options;
pub use options::Polling;
pub use server::Server;
pub use server::Statistics;
pub use shutdown::ShutdownHandle;
