//! The frame that tells switches where a station is, without knowing its IP address.
//!
//! Rule: it is what other hosts send after a migration too: a RARP request of the station about itself (RFC 903).

/// Shortest Ethernet frame without its check sequence.
const FRAME: usize = 60;

/// A broadcast from `mac` that asks for its own IP address.
pub(crate) fn announcement(mac: [u8; 6]) -> [u8; FRAME] {
    let parts: [&[u8]; 10] = [
        &[0xff; 6],
        &mac,
        &[0x80, 0x35],
        // Ethernet, IPv4, their address lengths, "request reverse".
        &[0, 1, 8, 0, 6, 4],
        &[0, 3],
        &mac,
        &[0; 4],
        &mac,
        &[0; 4],
        &[0; 18],
    ];
    let mut frame = [0; FRAME];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}
