//! Control sockets: one request per line in, one JSON object per line out; the client of them; counters as Prometheus
//! text. The daemons and the VMM speak it alike.
//!
//! One rule: what the requests mean is said by whoever serves; nothing here knows a device.
#![forbid(unsafe_code)]

mod client;
mod error;
mod listen;
pub mod prometheus;
mod serve;
pub mod words;

pub use client::Reply;
pub use client::ask;
pub use error::Error;
pub use listen::Access;
pub use listen::bind;
pub use listen::bind_private;
pub use serve::Answer;
pub use serve::Answers;
pub use serve::THREAD;
pub use serve::serve;
