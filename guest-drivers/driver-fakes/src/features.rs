//! Which features a test tries.

/// Every combination of `bits`, none first.
pub fn feature_sets(bits: &[u64]) -> Vec<u64> {
    let chosen = |set: u32| {
        let bits = bits.iter().enumerate();
        bits.filter(|(nth, _)| set >> nth & 1 == 1)
            .map(|(_, bit)| bit)
            .sum()
    };
    (0..1_u32 << bits.len()).map(chosen).collect()
}
