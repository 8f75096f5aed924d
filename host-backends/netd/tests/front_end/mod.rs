//! The front-end's side of the first messages.
//!
//! Rule: it asks and expects an answer in time.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::process::PATIENCE;

/// A connection to the daemon.
pub struct FrontEnd(UnixStream);

impl FrontEnd {
    pub const GET_FEATURES: u32 = 1;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const GET_QUEUE_NUM: u32 = 17;

    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    /// The 64-bit answer to a request without payload.
    pub fn number(&mut self, request: u32) -> u64 {
        let [a, b, c, d] = request.to_ne_bytes();
        // Request, version 1, no payload.
        self.0
            .write_all(&[a, b, c, d, 1, 0, 0, 0, 0, 0, 0, 0])
            .expect("a message");
        let mut reply = [0; 20];
        self.0.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply[..4], &request.to_ne_bytes());
        u64::from_ne_bytes(*reply.last_chunk().expect("eight bytes"))
    }
}
