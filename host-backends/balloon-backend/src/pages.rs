//! Which guest pages are in the balloon.
//!
//! Rule: memory is bounded by what the guest has: one bit per page, in pieces that exist only where a bit is set.

use std::ops::Range;

/// Pages of one piece: 128 MiB.
const PIECE: u64 = 1 << 15;
/// Pages of one word.
const WORD: u64 = 64;

/// A set of guest page numbers.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pieces: Vec<Option<Box<Piece>>>,
    count: u64,
}

#[derive(Debug)]
struct Piece {
    words: [u64; (PIECE / WORD) as usize],
    count: u32,
}

/// The words that `range` touches: number and mask.
fn words(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let first = range.start / WORD;
    let last = range.end.div_ceil(WORD);
    (first..last).map(move |word| {
        let from = range.start.saturating_sub(word * WORD);
        let to = (range.end - word * WORD).min(WORD);
        let below = if to == WORD { u64::MAX } else { (1 << to) - 1 };
        (word, below & (u64::MAX << from))
    })
}

impl Pages {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn piece(&mut self, word: u64) -> Option<(&mut Box<Piece>, &mut u64)> {
        let at = usize::try_from(word * WORD / PIECE).ok()?;
        if at >= self.pieces.len() {
            self.pieces.resize_with(at + 1, || None);
        }
        let piece = self.pieces.get_mut(at)?.get_or_insert_with(|| {
            Box::new(Piece {
                words: [0; (PIECE / WORD) as usize],
                count: 0,
            })
        });
        Some((piece, &mut self.count))
    }

    /// Adds the pages of `range`, which is guest memory; returns how many were not there before.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        let mut new = 0;
        for (word, mask) in words(range) {
            let Some((piece, count)) = self.piece(word) else {
                continue;
            };
            if let Some(bits) = piece.words.get_mut((word % (PIECE / WORD)) as usize) {
                let added = (mask & !*bits).count_ones();
                *bits |= mask;
                piece.count += added;
                *count += u64::from(added);
                new += u64::from(added);
            }
        }
        new
    }

    /// Takes the pages of `range` out; returns how many were there.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        for (word, mask) in words(range) {
            let Some(slot) = self.pieces.get_mut((word * WORD / PIECE) as usize) else {
                break;
            };
            let Some(piece) = slot else {
                continue;
            };
            if let Some(bits) = piece.words.get_mut((word % (PIECE / WORD)) as usize) {
                let removed = (mask & *bits).count_ones();
                *bits &= !mask;
                piece.count -= removed;
                self.count -= u64::from(removed);
                gone += u64::from(removed);
            }
            if piece.count == 0 {
                *slot = None;
            }
        }
        gone
    }

    fn word(&self, word: u64) -> u64 {
        let at = (word * WORD / PIECE) as usize;
        let piece = self.pieces.get(at).and_then(Option::as_ref);
        piece.map_or(0, |piece| {
            let word = piece.words.get((word % (PIECE / WORD)) as usize);
            word.copied().unwrap_or(0)
        })
    }

    /// Whether every page of `range` is there.
    pub fn has_all(&self, range: Range<u64>) -> bool {
        words(range).all(|(word, mask)| self.word(word) & mask == mask)
    }

    /// Calls `each` for every maximal run of pages, in order.
    pub fn for_each_run(&self, mut each: impl FnMut(Range<u64>)) {
        let mut run: Option<Range<u64>> = None;
        let filled = self.pieces.iter().zip(0_u64..);
        let filled = filled.filter_map(|(piece, at)| piece.as_ref().map(|piece| (piece, at)));
        for (piece, at) in filled {
            for (bits, word) in piece.words.iter().zip(0_u64..) {
                let start = at * PIECE + word * WORD;
                runs_of(*bits, start, &mut |part: Range<u64>| match &mut run {
                    Some(open) if open.end == part.start => open.end = part.end,
                    open => {
                        if let Some(done) = open.replace(part) {
                            each(done);
                        }
                    }
                });
            }
        }
        if let Some(done) = run {
            each(done);
        }
    }
}

/// Calls `each` for the runs of ones in `bits`, of which the lowest is page `start`.
fn runs_of(bits: u64, start: u64, each: &mut impl FnMut(Range<u64>)) {
    let mut at = 0;
    while at < WORD {
        let rest = bits >> at;
        if rest == 0 {
            return;
        }
        let from = at + u64::from(rest.trailing_zeros());
        let ones = u64::from((bits >> from).trailing_ones());
        each(start + from..start + from + ones);
        at = from + ones;
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
