//! Counters of one queue pair.
//!
//! Rule: each half has one writer at a time (the transmit queue's worker; whoever holds the receive queue), and the halves
//! share no cache line.

use metrics::CounterSet as _;
use metrics::MetricSet as _;
use metrics::Samples;

/// Counters of one queue pair.
#[derive(Debug, Default)]
pub(crate) struct PairTally {
    pub transmit: TransmitTally,
    pub receive: ReceiveTally,
}

/// What a port's pairs have done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the guest sent.
    pub transmit: Transmitted,
    /// What the guest got.
    pub receive: Received,
}

impl PairTally {
    /// Adds the values now to `sum`.
    pub fn add_to(&self, sum: &mut Totals) {
        self.transmit.add_to(&mut sum.transmit);
        self.receive.add_to(&mut sum.receive);
    }
}

impl Totals {
    /// All of them.
    pub fn samples(&self) -> Samples {
        self.transmit.samples().and(&self.receive)
    }
}

metrics::counters! {
    /// What the guest sent.
    pub struct Transmitted named "transmit_",
    /// Counters of what the guest sends; written by the transmit queue's worker.
    #[repr(align(128))]
    pub(crate) struct TransmitTally of metrics::Counter {
        /// Frames the guest sent that went on.
        frames,
        /// Their bytes, without virtio-net headers.
        bytes in bytes,
        /// Frames with a header that contradicts the frame or the negotiation.
        bad_headers,
        /// Chains too short for a frame, or frames longer than allowed.
        bad_lengths,
        /// Chains with writable parts, or outside of guest memory.
        bad_chains,
        /// Frames sent while the cable was out.
        link_down,
        /// Frames refused by the address filter.
        spoofed,
        /// Frames beyond the rate limit.
        limited,
        /// Frames that the link had no room for, or refused.
        link_dropped,
        /// Frames that nobody else was to get.
        nowhere,
        /// Frames that needed software checksums or segmentation that cannot be had.
        unsupported,
    }
}

metrics::counters! {
    /// What the guest got.
    pub struct Received named "receive_",
    /// Counters of what the guest gets; written by the holder of its receive queue.
    #[repr(align(128))]
    pub(crate) struct ReceiveTally of metrics::Counter {
        /// Frames the guest got.
        frames,
        /// Their bytes, without virtio-net headers.
        bytes in bytes,
        /// Frames dropped because the guest had no buffers.
        starved,
        /// Frames dropped because the guest's buffers are too small for them.
        too_small,
        /// Frames longer than the MTU that the driver was told.
        too_long,
        /// Buffers that lie outside of guest memory; frames for them are lost.
        bad_chains,
        /// Frames whose sender took their memory away.
        bad_sources,
        /// Frames that the driver does not want (receive modes, address and VLAN filters).
        filtered,
        /// Frames beyond the rate limit.
        limited,
        /// Frames that came while the cable was out or the queue did not run.
        link_down,
        /// Frames that need offloads the driver did not accept, and that cannot be done in software.
        unsupported,
    }
}
