//! The way of frames: out of a guest's transmit queue, into a guest's receive queue, over links and switches.
//!
//! Rule: per frame no lock, no allocation and no atomic read-modify-write.

use std::sync::Arc;

use device_model::Error;
use device_model::QueueHandler;

use crate::port::Port;

pub(crate) mod inlet;
pub(crate) mod tally;

pub(crate) fn transmit_handler(
    _port: &Arc<Port>,
    _pair: u16,
) -> Result<Box<dyn QueueHandler>, Error> {
    Err(Error::Unsupported)
}

pub(crate) fn receive_handler(
    _port: &Arc<Port>,
    _pair: u16,
) -> Result<Box<dyn QueueHandler>, Error> {
    Err(Error::Unsupported)
}

pub(crate) fn send_own(_port: &Port, _frame: &[u8]) -> Result<(), Error> {
    Err(Error::Unsupported)
}
