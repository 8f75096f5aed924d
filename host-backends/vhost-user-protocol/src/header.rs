//! The 12-byte message header. One rule: the version and the length are checked before anything else is read.

use crate::Error;
use crate::MAX_PAYLOAD;

/// Bytes in a header.
pub const HEADER_SIZE: usize = 12;

/// Bits of the header's `flags` word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFlags(pub u32);

impl HeaderFlags {
    /// The two version bits.
    pub const VERSION_MASK: u32 = 0x3;
    /// The only version there is.
    pub const VERSION: u32 = 0x1;
    /// The message answers one.
    pub const REPLY: u32 = 0x4;
    /// The sender waits for an answer (`REPLY_ACK`).
    pub const NEED_REPLY: u32 = 0x8;

    /// Whether the sender waits for an answer.
    pub fn need_reply(self) -> bool {
        self.0 & Self::NEED_REPLY != 0
    }

    /// Whether this is an answer.
    pub fn is_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }
}

/// A decoded header. `request` is a [`crate::Request`] or a [`crate::BackendRequest`], by channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The request number.
    pub request: u32,
    /// Version and flags.
    pub flags: HeaderFlags,
    /// Payload bytes that follow.
    pub size: u32,
}

impl Header {
    /// A request header.
    pub fn request(request: u32, size: usize, need_reply: bool) -> Self {
        let flag = if need_reply {
            HeaderFlags::NEED_REPLY
        } else {
            0
        };
        Self::new(request, HeaderFlags::VERSION | flag, size)
    }

    /// A reply header.
    pub fn reply(request: u32, size: usize) -> Self {
        Self::new(request, HeaderFlags::VERSION | HeaderFlags::REPLY, size)
    }

    fn new(request: u32, flags: u32, size: usize) -> Self {
        Self {
            request,
            flags: HeaderFlags(flags),
            size: u32::try_from(size).unwrap_or(u32::MAX),
        }
    }

    /// Reads and checks a header; `bytes` holds at least [`HEADER_SIZE`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let word = |at: usize| -> Option<u32> {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let (Some(request), Some(flags), Some(size)) = (word(0), word(4), word(8)) else {
            return Err(Error::ShortHeader(bytes.len()));
        };
        let version = flags & HeaderFlags::VERSION_MASK;
        if version != HeaderFlags::VERSION {
            return Err(Error::Version(version));
        }
        if size as usize > MAX_PAYLOAD {
            return Err(Error::TooLong(size));
        }
        Ok(Self {
            request,
            flags: HeaderFlags(flags),
            size,
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[..4].copy_from_slice(&self.request.to_ne_bytes());
        out[4..8].copy_from_slice(&self.flags.0.to_ne_bytes());
        out[8..].copy_from_slice(&self.size.to_ne_bytes());
        out
    }
}
