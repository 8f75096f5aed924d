//! Counters of the queues.
//!
//! Rule: they only grow, and nothing in the driver depends on them.

/// What a receive queue has done, for diagnosis and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveCounters {
    /// Frames handed up.
    pub frames: u64,
    /// Bytes of these frames, without virtio headers.
    pub bytes: u64,
    /// Buffers posted.
    pub posted: u64,
    /// Buffers that came back, with a frame or without.
    pub buffers: u64,
    /// Frames that are to be cut into segments or datagrams.
    pub large: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// Frames dropped: shorter than the headers.
    pub too_short: u64,
    /// Frames dropped: longer than any frame.
    pub too_long: u64,
    /// Frames dropped: in no buffer, in buffers that did not come, or with an empty buffer.
    pub bad_buffers: u64,
    /// Frames dropped: the header lies.
    pub bad_header: u64,
}

/// What a transmit queue has done, for diagnosis and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmitCounters {
    /// Frames made available.
    pub frames: u64,
    /// Bytes of these frames, without virtio headers.
    pub bytes: u64,
    /// Frames that the device is to cut.
    pub large: u64,
    /// Batches published.
    pub batches: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// Frames that came back.
    pub completions: u64,
}

/// What the control queue has done, for diagnosis and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlCounters {
    /// Commands sent.
    pub commands: u64,
    /// Commands that the device refused.
    pub refused: u64,
    /// Unknown or missing answers.
    pub bad_answers: u64,
}
