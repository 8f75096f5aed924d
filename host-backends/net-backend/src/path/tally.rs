//! Counters of one queue pair.
//!
//! Rule: each half has one writer at a time (the transmit queue's worker; whoever holds the receive queue), so adding is a
//! load and a store, and the halves share no cache line.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Serialize;

/// A number that its holder adds to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, amount: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(amount), Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! tallies {
    ($(#[$half_meta:meta] $half:ident { $($(#[$meta:meta])* $field:ident => $sum:ident,)* })*) => {
        $(
            #[$half_meta]
            #[derive(Debug, Default)]
            #[repr(align(128))]
            pub(crate) struct $half {
                $($(#[$meta])* pub $field: Counter,)*
            }
        )*

        /// What a port's pairs have done since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Totals {
            $($($(#[$meta])* pub $sum: u64,)*)*
        }

        impl PairTally {
            /// Adds the values now to `sum`.
            pub fn add_to(&self, sum: &mut Totals) {
                $(
                    let half: &$half = self.as_ref();
                    $(sum.$sum += half.$field.get();)*
                )*
            }
        }
    };
}

/// Counters of one queue pair.
#[derive(Debug, Default)]
pub(crate) struct PairTally {
    pub transmit: TransmitTally,
    pub receive: ReceiveTally,
}

impl AsRef<TransmitTally> for PairTally {
    fn as_ref(&self) -> &TransmitTally {
        &self.transmit
    }
}

impl AsRef<ReceiveTally> for PairTally {
    fn as_ref(&self) -> &ReceiveTally {
        &self.receive
    }
}

tallies! {
    /// What the guest sent; written by the transmit queue's worker.
    TransmitTally {
        /// Frames the guest sent that went on.
        frames => transmit_frames_total,
        /// Their bytes, without virtio-net headers.
        bytes => transmit_bytes_total,
        /// Frames with a header that contradicts the frame or the negotiation.
        bad_header => transmit_bad_headers_total,
        /// Chains too short for a frame, or frames longer than allowed.
        bad_length => transmit_bad_lengths_total,
        /// Chains with writable parts, or outside of guest memory.
        bad_chain => transmit_bad_chains_total,
        /// Frames sent while the cable was out.
        link_down => transmit_link_down_total,
        /// Frames refused by the address filter.
        spoofed => transmit_spoofed_total,
        /// Frames beyond the rate limit.
        limited => transmit_limited_total,
        /// Frames that the link had no room for, or refused.
        link_dropped => transmit_link_dropped_total,
        /// Frames that nobody else was to get.
        nowhere => transmit_nowhere_total,
        /// Frames that needed software checksums or segmentation that cannot be had.
        unsupported => transmit_unsupported_total,
    }
    /// What the guest gets; written by the holder of its receive queue.
    ReceiveTally {
        /// Frames the guest got.
        frames => receive_frames_total,
        /// Their bytes, without virtio-net headers.
        bytes => receive_bytes_total,
        /// Frames dropped because the guest had no buffers.
        starved => receive_starved_total,
        /// Frames dropped because the guest's buffers are too small for them.
        too_small => receive_too_small_total,
        /// Frames longer than the MTU that the driver was told.
        too_long => receive_too_long_total,
        /// Buffers that lie outside of guest memory; frames for them are lost.
        bad_chain => receive_bad_chains_total,
        /// Frames whose sender took their memory away.
        bad_source => receive_bad_sources_total,
        /// Frames that the driver does not want (receive modes, address and VLAN filters).
        filtered => receive_filtered_total,
        /// Frames beyond the rate limit.
        limited => receive_limited_total,
        /// Frames that came while the cable was out or the queue did not run.
        link_down => receive_link_down_total,
        /// Frames that need offloads the driver did not accept, and that cannot be done in software.
        unsupported => receive_unsupported_total,
    }
}
