//! Entry points for fuzzers; only in fuzzing builds.
//!
//! Rule: what the fuzzer calls is what the frame path calls.

use net_link::Offloads;
use virtio_spec::net::Header;

use crate::path::header::Rules;

/// The header of a frame of `len` bytes as the frame path believes it, if it passes the check.
pub fn checked_header(
    offloads: Offloads,
    max_frame: usize,
    header: &Header,
    len: usize,
) -> Option<Header> {
    let rules = Rules {
        offloads,
        max_frame,
    };
    rules.check(header, len).ok()
}
