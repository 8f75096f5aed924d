//! What can be wrong with a message. One rule: each variant says which bytes were at fault.

use crate::Request;

/// Why bytes are not a vhost-user message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header carries a version other than 1
    #[error("The header carries version {0}, not 1")]
    Version(u32),
    /// A request carries the reply flag, or a reply lacks it
    #[error("The reply flag is wrong in header flags {0:#x}")]
    ReplyFlag(u32),
    /// The header announces more payload than allowed
    #[error("The header announces {0} payload bytes")]
    TooLong(u32),
    /// Fewer bytes than a header
    #[error("Only {0} bytes of a 12-byte header")]
    ShortHeader(usize),
    /// The payload length does not fit the request
    #[error("Request {request:?} cannot have {length} payload bytes")]
    PayloadLength {
        /// The request whose payload it was.
        request: Request,
        /// Bytes received.
        length: usize,
    },
    /// A field of the payload holds a value that the document does not allow
    #[error("Request {request:?} has a bad {field}")]
    Field {
        /// The request whose payload it was.
        request: Request,
        /// The field's name in the document.
        field: &'static str,
    },
}
