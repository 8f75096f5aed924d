//! Numbers made from names. One rule: the same parts give the same number in every version and on every machine; what a
//! user has seen as a serial number or an address must not change by an upgrade.

/// A number for `parts`, in their order; others most likely have another one.
///
/// FNV-1a of 64 bits over each part and its length, then mixed so that every bit of the number depends on every byte.
pub fn fingerprint(parts: &[&[u8]]) -> u64 {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        hash = part.iter().fold(hash, |hash, byte| add(hash, *byte));
        let length = (part.len() as u64).to_le_bytes();
        hash = length.iter().fold(hash, |hash, byte| add(hash, *byte));
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::fingerprint;
    use std::collections::HashSet;

    #[test]
    fn a_fingerprint_stays_the_same_over_versions() {
        assert_eq!(fingerprint(&[]), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(fingerprint(&[b"disk", b"/a"]), 0x453e_7e70_65f3_8251);
    }

    #[test]
    fn the_borders_of_the_parts_count() {
        let all: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""]];
        let seen: HashSet<_> = all.iter().map(|parts| fingerprint(parts)).collect();
        assert_eq!(seen.len(), all.len());
    }

    #[test]
    fn names_that_differ_in_their_last_byte_differ_all_over() {
        let bits = |byte| fingerprint(&[b"net", b"/run/paravane/web/net", &[byte]]);
        let changed: u32 = (b'0'..=b'8')
            .map(|byte| (bits(byte) ^ bits(byte + 1)).count_ones())
            .sum();
        // Half of the 64 bits on average, over nine pairs.
        assert!((200..376).contains(&changed), "{changed}");
    }
}
