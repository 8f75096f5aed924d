//! Which MSI-X message serves what.
//!
//! Rule: the first message is for configuration changes, the others are dealt out to the queues.

/// The messages that the shell has for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    messages: u16,
}

impl Vectors {
    /// Deals out so many messages.
    pub fn new(messages: u16) -> Self {
        Self { messages }
    }

    /// The message for configuration changes.
    pub fn config(self) -> Option<u16> {
        (self.messages > 0).then_some(0)
    }

    /// The message of a queue; with one message all share it.
    pub fn queue(self, index: u16) -> Option<u16> {
        match self.messages {
            0 => None,
            1 => Some(0),
            messages => Some(1 + index % (messages - 1)),
        }
    }
}
