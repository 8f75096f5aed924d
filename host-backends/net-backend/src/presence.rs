//! Queues that run, counted by what their workers do.
//!
//! Rule: the count is the front-end's word on the pairs in use, as long as it keeps the control queue to itself and only
//! switches rings on and off.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use device_model::Error;
use device_model::Moderator;
use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use device_model::Shelf;
use guest_memory::GuestMemory;

use crate::control::Control;

/// A handler whose queue counts as running from its making until it is drained.
pub(crate) struct Present {
    handler: Box<dyn QueueHandler>,
    control: Arc<Control>,
    index: u16,
    counted: bool,
    moderator: Option<Arc<Moderator>>,
}

impl Present {
    pub fn new(handler: Box<dyn QueueHandler>, control: &Arc<Control>, index: u16) -> Self {
        let moderator = control.moderator(index);
        control.queue_started(index);
        Self {
            handler,
            control: Arc::clone(control),
            index,
            counted: true,
            moderator,
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.control.queue_stopped(self.index);
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.end();
    }
}

impl QueueHandler for Present {
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error> {
        self.handler.run(queue, memory)
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.handler.completion_fd()
    }

    fn before_sleep(&mut self) {
        self.handler.before_sleep();
    }

    fn after_sleep(&mut self, completed: bool) {
        self.handler.after_sleep(completed);
    }

    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        self.handler.shelf()
    }

    fn moderator(&self) -> Option<Arc<Moderator>> {
        self.moderator.clone()
    }

    fn in_flight(&self) -> usize {
        self.handler.in_flight()
    }

    fn drain(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        self.end();
        self.handler.drain(queue, memory)
    }

    fn suspend(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        self.end();
        self.handler.suspend(queue, memory)
    }
}
