//! What a shell says of a frame that it sends, and what it learns of one that it gets.
//!
//! Rule: offsets count from the first byte of the Ethernet header.

/// Where a checksum is to be completed: over all bytes from `start` on, stored at `start + offset` (sec. 5.1.6.2). The bytes there hold
/// the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumAt {
    /// First byte that is summed: the TCP or UDP header.
    pub start: u16,
    /// Where in that header the checksum is: 16 for TCP, 6 for UDP.
    pub offset: u16,
}

/// What is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, cut into datagrams.
    Udp,
}

/// A frame that is larger than the network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What it is.
    pub kind: SegmentKind,
    /// Bytes of payload in each segment, not 0.
    pub size: u16,
    /// TCP with Explicit Congestion Notification: only the first segment keeps the CWR flag.
    pub ecn: bool,
}

/// What the device is asked to do with a frame; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Complete this checksum.
    pub checksum: Option<ChecksumAt>,
    /// Cut the frame; needs `checksum` too.
    pub segmentation: Option<Segmentation>,
    /// Bytes of all headers, with the transport header; with `segmentation`.
    pub header_len: u16,
}

/// What is known of a received frame's TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: it is to be checked.
    Unknown,
    /// The device checked it.
    Valid,
    /// It is not complete, because the frame was never on a wire; the data is good. To be completed before the frame goes further.
    Partial(ChecksumAt),
}

/// The hash of a received frame (sec. 5.1.6.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The hash.
    pub value: u32,
    /// What was hashed: one of [`virtio_spec::net::rss::hash_report`], never `NONE`.
    pub report: u16,
}

/// What the device coalesced into one frame (`RSC_EXT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesced {
    /// Segments.
    pub segments: u16,
    /// Duplicate acknowledgements.
    pub duplicate_acks: u16,
}

/// A received frame, as far as its header was found to be true to the negotiated features and inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the frame, without virtio header.
    pub len: u32,
    /// Its checksum.
    pub checksum: Checksum,
    /// Set when it is larger than the network takes.
    pub segmentation: Option<Segmentation>,
    /// Its hash, if the device computed one.
    pub hash: Option<Hash>,
    /// Set when the device reports coalescing.
    pub coalesced: Option<Coalesced>,
}
