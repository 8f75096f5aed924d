//! What a shell asks for and what it gets back.
//!
//! Rule: a request owns its buffer from `submit` to its completion, and always gets it back.
use crate::error::Refusal;
use crate::error::RequestError;

/// What to do. Sectors are 512 bytes whatever the block size is (sec. 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read from `sector` into the buffer.
    Read {
        /// First sector.
        sector: u64,
    },
    /// Write the buffer at `sector`.
    Write {
        /// First sector.
        sector: u64,
    },
    /// Make every write that completed before durable.
    Flush,
    /// The contents are not needed any more.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors; the driver splits what the device cannot take at once.
        sectors: u64,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// Number of sectors; the driver splits what the device cannot take at once.
        sectors: u64,
        /// Whether the device may give the space up.
        unmap: bool,
    },
    /// Read the serial.
    GetSerial,
    /// Send a request of any type with no checks but those of the buffer: for vendor requests and for tests of devices.
    Raw {
        /// Request type; the buffer, if any, is device-writable when it is even and device-readable when it is odd.
        request_type: u32,
        /// The header's sector field.
        sector: u64,
    },
}

/// A request to the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<B> {
    /// What to do.
    pub operation: Operation,
    /// The data: for reads, writes and raw requests only.
    pub buffer: Option<B>,
    /// Comes back with the completion; the driver does not look at it.
    pub cookie: u64,
}

/// A request that was refused at submission.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<B> {
    /// Why.
    pub reason: Refusal,
    /// The request, unchanged.
    pub request: Request<B>,
}

/// A device's serial: ASCII, padded with zeroes; all 20 bytes may be used (sec. 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial(pub [u8; virtio_spec::block::ID_SIZE]);

impl Serial {
    /// One of no characters.
    pub(crate) const EMPTY: Self = Self([0; virtio_spec::block::ID_SIZE]);

    /// The bytes before the first zero.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        self.0.get(..end).unwrap_or(&self.0)
    }
}

/// What a successful request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Done; data, if any, is in the buffer.
    Done,
    /// The serial.
    Serial(Serial),
}

/// A request that is finished.
#[derive(Debug, PartialEq, Eq)]
pub struct Completion<B> {
    /// From the request.
    pub cookie: u64,
    /// How it went.
    pub result: Result<Success, RequestError>,
    /// The request's buffer. After a failed read its content is unspecified.
    pub buffer: Option<B>,
    /// The request's operation.
    pub operation: Operation,
}
