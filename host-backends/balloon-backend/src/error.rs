//! What can go wrong with a balloon, apart from what a guest does, which is counted instead.

use thiserror::Error;

/// Why a balloon could not be made or told something.
#[derive(Debug, Error)]
pub enum Error {
    /// The specification is wrong; every fault with its mend.
    #[error("Balloon specification is wrong: {}", .0.join("; "))]
    Spec(Vec<String>),
    /// No timer for the statistics.
    #[error("Cannot make a timer")]
    Timer(#[source] nix::errno::Errno),
    /// The driver did not accept FREE_PAGE_HINT.
    #[error(
        "The guest gives no hints of free pages: pass --free-page-hint true and use a driver that knows them"
    )]
    NoHints,
}
