//! The way of frames: out of a guest's transmit queue, into a guest's receive queue, over links and switches.
//!
//! Rule: per frame no lock, no allocation and no atomic read-modify-write.

use std::sync::Arc;

use device_model::Error;
use device_model::QueueHandler;
use guest_memory::GuestMemory;

use crate::path::inlet::ReceiveQueue;
use crate::path::link::LinkPair;
use crate::path::pair::SwitchPair;
use crate::path::tally::TransmitTally;
use crate::path::transmit::Burst;
use crate::port::Attachment;
use crate::port::Port;
use crate::switch::Sender;

mod from_link;
pub(crate) mod header;
pub(crate) mod inlet;
pub(crate) mod link;
pub(crate) mod pair;
pub(crate) mod policy;
pub(crate) mod receive;
mod room;
pub(crate) mod soften;
pub(crate) mod streak;
pub(crate) mod tally;
pub(crate) mod transmit;
mod view;

#[cfg(test)]
mod tests;

pub(crate) fn transmit_handler(
    port: &Arc<Port>,
    pair: u16,
) -> Result<Box<dyn QueueHandler>, Error> {
    let core = port.core();
    let tally = core.tallies.get(usize::from(pair));
    let tally = tally.ok_or(Error::Unsupported)?;
    match port.attachment() {
        Attachment::Links(_) => Ok(Box::new(LinkPair::new(port, pair)?)),
        Attachment::Switch(switch, number) => {
            let sender = Sender::new(switch, *number, pair);
            Ok(Box::new(SwitchPair::new(core, tally, sender)))
        }
    }
}

pub(crate) fn receive_handler(port: &Arc<Port>, pair: u16) -> Result<Box<dyn QueueHandler>, Error> {
    let inlet = port.core().inlets.get(usize::from(pair));
    let inlet = inlet.ok_or(Error::Unsupported)?;
    Ok(Box::new(ReceiveQueue::new(Arc::clone(inlet))))
}

/// Sends a frame of the host's making.
pub(crate) fn send_own(port: &Port, frame: &[u8]) -> Result<(), Error> {
    let core = port.core();
    match port.attachment() {
        Attachment::Links(_) if core.add_own(frame) => Ok(()),
        Attachment::Links(_) => Err(Error::Unsupported),
        Attachment::Switch(switch, number) => {
            let mut burst = Burst::new();
            if !core.state.get().link_up || !burst.set_own(frame) {
                return Err(Error::Unsupported);
            }
            // Counted apart: the pairs' counters belong to their workers.
            let tally = TransmitTally::default();
            let mut sender = Sender::new(switch, *number, 0);
            sender.forward(&mut burst, &GuestMemory::default(), &tally);
            Ok(())
        }
    }
}
