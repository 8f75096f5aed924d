//! The order in which a guest gives its pages.
//!
//! One rule: the same pages in every order but [`Order::Alternate`], which gives each second one.

/// In which order pages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other: a guest whose free memory is in large pieces.
    Ascending,
    /// Large pieces in any order, and descending inside: what Linux gives.
    Pieces,
    /// Each second page only, so that no two are neighbours: the worst case.
    Alternate,
}

/// Pages of a large piece: 2 MiB.
const PIECE: u64 = 512;

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ascending, Self::Pieces, Self::Alternate];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ascending => "ascending",
            Self::Pieces => "pieces",
            Self::Alternate => "alternate",
        }
    }

    /// Page numbers below `pages`, a multiple of 512, counted from `first`.
    pub fn pages(self, first: u64, pages: u64) -> Vec<u32> {
        let numbers: Vec<u64> = match self {
            Self::Ascending => (0..pages).collect(),
            Self::Alternate => (0..pages).step_by(2).collect(),
            Self::Pieces => {
                let pieces = pages / PIECE;
                let mut order: Vec<u64> = (0..pieces).collect();
                order.sort_by_key(|piece| piece.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let inside = |piece: u64| (0..PIECE).rev().map(move |page| piece * PIECE + page);
                order.into_iter().flat_map(inside).collect()
            }
        };
        numbers
            .into_iter()
            .map(|number| (first + number) as u32)
            .collect()
    }
}
