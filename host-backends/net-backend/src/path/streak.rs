//! Frames that are dropped one after the other with none between them that gets through: when they become a condition.
//!
//! Rule: a burst of which a frame got through pays one comparison.

use crate::conditions::ConditionKind as Kind;
use crate::conditions::Conditions;
use crate::path::tally::ReceiveTally;
use crate::path::tally::TransmitTally;
use crate::port::PortState;

/// Frames in a row that are dropped for the same reason.
const MANY: u64 = 16;
/// The same for want of buffers, which a guest that is slow or stopped runs out of too.
const MANY_STARVED: u64 = 256;

/// Reasons for which frames of one direction are dropped: the kind, how many were, and how many in a row are too many.
type Losses<const N: usize> = [(Kind, u64, u64); N];

impl TransmitTally {
    fn losses(&self) -> Losses<7> {
        [
            (Kind::Unplugged, self.link_down.get(), MANY),
            (Kind::SentHeaders, self.bad_headers.get(), MANY),
            (Kind::SentLengths, self.bad_lengths.get(), MANY),
            (Kind::SentChains, self.bad_chains.get(), MANY),
            (Kind::LinkRefuses, self.link_dropped.get(), MANY),
            (Kind::Nowhere, self.nowhere.get(), MANY),
            (Kind::SentOffloads, self.unsupported.get(), MANY),
        ]
    }
}

impl ReceiveTally {
    fn losses(&self) -> Losses<5> {
        [
            (Kind::Starved, self.starved.get(), MANY_STARVED),
            (Kind::SmallBuffers, self.too_small.get(), MANY),
            (Kind::BadBuffers, self.bad_chains.get(), MANY),
            (Kind::ReceivedLengths, self.too_long.get(), MANY),
            (Kind::ReceivedOffloads, self.unsupported.get(), MANY),
        ]
    }
}

/// One direction of a queue pair.
#[derive(Debug)]
struct Streak<const N: usize> {
    /// Frames that got through when last looked.
    good: u64,
    /// Those that were dropped, for each reason, when the streak began.
    begin: [u64; N],
    /// Something of it is a condition.
    raised: bool,
}

impl<const N: usize> Streak<N> {
    fn new(good: u64, losses: Losses<N>) -> Self {
        Self {
            good,
            begin: losses.map(|(_, count, _)| count),
            raised: false,
        }
    }

    #[cold]
    fn look(
        &mut self,
        good: u64,
        losses: Losses<N>,
        conditions: &Conditions,
        say: impl Fn(Kind) -> String,
    ) {
        if good != self.good {
            let raised = std::mem::take(&mut self.raised);
            *self = Self::new(good, losses);
            for (kind, ..) in losses.iter().filter(|_| raised) {
                conditions.clear(*kind);
            }
            return;
        }
        for ((kind, count, many), begin) in losses.into_iter().zip(&mut self.begin) {
            if count.wrapping_sub(*begin) >= many {
                // As much again before the next look at it.
                *begin = count;
                self.raised = true;
                conditions.raise(kind, || say(kind));
            }
        }
    }
}

/// What a guest sends.
#[derive(Debug)]
pub(crate) struct SendStreak(Streak<7>);

impl SendStreak {
    pub fn new(tally: &TransmitTally) -> Self {
        Self(Streak::new(tally.frames.get(), tally.losses()))
    }

    /// A burst is over, before which `before` frames had got through.
    #[inline]
    pub fn settle(
        &mut self,
        before: u64,
        tally: &TransmitTally,
        state: &PortState,
        conditions: &Conditions,
    ) {
        let good = tally.frames.get();
        if good == before || self.0.raised {
            let say = |kind| sent(kind, state);
            self.0.look(good, tally.losses(), conditions, say);
        }
    }
}

/// What a guest gets.
#[derive(Debug)]
pub(crate) struct ReceiveStreak(Streak<5>);

impl ReceiveStreak {
    pub fn new(tally: &ReceiveTally) -> Self {
        Self(Streak::new(tally.frames.get(), tally.losses()))
    }

    /// A burst is over, of which `good` frames got through.
    #[inline]
    pub fn settle(
        &mut self,
        good: u64,
        tally: &ReceiveTally,
        state: &PortState,
        conditions: &Conditions,
    ) {
        if good == 0 || self.0.raised {
            let say = |kind| received(kind, state);
            let good = tally.frames.get();
            self.0.look(good, tally.losses(), conditions, say);
        }
    }
}

fn sent(kind: Kind, state: &PortState) -> String {
    let why = match kind {
        Kind::Unplugged => "the cable is out, `set link=up` or a link that works again puts it in".to_owned(),
        Kind::SentHeaders => "its headers ask for offloads that its driver did not accept, or contradict the frames; is the length of the header agreed on?".to_owned(),
        Kind::SentLengths => format!(
            "frames are shorter than an Ethernet header or longer than the MTU of {} allows; set the guest's MTU to that, or the card's `mtu` to the guest's",
            state.mtu
        ),
        Kind::SentChains => "buffers are outside of the guest's memory or for the device to write to, a fault of its driver".to_owned(),
        Kind::LinkRefuses => "the link takes none of them; is its interface up (ip link set NAME up)?".to_owned(),
        Kind::Nowhere => "they are for addresses that are behind its own port; does another guest have the same address?".to_owned(),
        _ => "they need offloads that the link has not and that cannot be done in software".to_owned(),
    };
    format!("All frames that the guest sends are dropped: {why}")
}

fn received(kind: Kind, state: &PortState) -> String {
    let why = match kind {
        Kind::Starved => "its driver gives no buffers for them; is the interface up in the guest, and does the guest run?".to_owned(),
        Kind::SmallBuffers => "its buffers are too small for them and its driver does not merge them (MRG_RXBUF); lower the MTU of the sender".to_owned(),
        Kind::BadBuffers => "its buffers are outside of its memory or empty, a fault of its driver".to_owned(),
        Kind::ReceivedLengths => format!(
            "they are longer than the MTU of {} that it was told; raise the card's `mtu`, or lower the sender's",
            state.mtu
        ),
        _ => "they need offloads that its driver did not accept and that cannot be done in software".to_owned(),
    };
    format!("All frames for the guest are dropped: {why}")
}
