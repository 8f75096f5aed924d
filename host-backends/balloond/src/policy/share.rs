//! Arithmetic of sharing.
//!
//! Rule: nobody gets more than it can take, the sum is never exceeded, and the order of the parties does not matter
//! beyond a few bytes.

/// Parts of `amount` in proportion to weights, none above its cap; each party is (cap, weight).
pub fn by_weight(amount: u64, parties: &[(u64, u64)]) -> Vec<u64> {
    let mut parts = vec![0_u64; parties.len()];
    let mut left = amount;
    // Each round fills at least one party, or shares out the rest.
    for _ in 0..=parties.len() {
        let open = |part: &u64, cap: u64| *part < cap;
        let weights: u128 = parts
            .iter()
            .zip(parties)
            .filter(|(part, (cap, _))| open(part, *cap))
            .map(|(_, (_, weight))| u128::from((*weight).max(1)))
            .sum();
        if left == 0 || weights == 0 {
            break;
        }
        let amount = left;
        for (part, (cap, weight)) in parts.iter_mut().zip(parties) {
            if !open(part, *cap) {
                continue;
            }
            let share = u128::from(amount) * u128::from((*weight).max(1)) / weights;
            let more = u64::try_from(share).unwrap_or(u64::MAX).max(1);
            let more = more.min(*cap - *part).min(left);
            *part += more;
            left -= more;
        }
    }
    parts
}

/// What a party wants of a whole.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The least, which it gets in any case.
    pub floor: u64,
    /// The most.
    pub most: u64,
    /// Its weight.
    pub weight: u64,
}

/// Parts of `whole` as near to the proportion of weights as floors and wishes let them be.
pub fn fair(whole: u64, wishes: &[Wish]) -> Vec<u64> {
    // The level at which sum(clamp(level * weight)) meets the whole, by halving.
    let at = |level: u128| -> Vec<u64> {
        let part = |wish: &Wish| {
            let share = (level * u128::from(wish.weight.max(1))) >> 16;
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            share.min(wish.most).max(wish.floor)
        };
        wishes.iter().map(part).collect()
    };
    let sum = |parts: &[u64]| parts.iter().map(|part| u128::from(*part)).sum::<u128>();
    let (mut low, mut high) = (0_u128, 1 << 80);
    while low + 1 < high {
        let middle = u128::midpoint(low, high);
        if sum(&at(middle)) <= u128::from(whole) {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(low)
}
