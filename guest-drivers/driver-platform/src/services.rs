//! Interrupt lines, time and the log.
//!
//! Rule: no strings are built in a driver; an event is a name and one number, and the shell decides whether and how to write it.

/// Message-signalled interrupts that the operating system has granted to the function.
///
/// The shell owns the MSI-X table and routes each message; the driver tells the device which message a queue raises, and the shell
/// which of them may come and where. A message is numbered by its entry in the table, below [`Interrupts::messages`].
pub trait Interrupts {
    /// How many MSI-X messages are usable; 0 means that the shell uses the line interrupt (or polls).
    fn messages(&self) -> u16;

    /// Holds a message back. What the device raises meanwhile comes after [`Interrupts::unmask`], once.
    fn mask(&self, message: u16);

    /// Lets a message through.
    fn unmask(&self, message: u16);

    /// Delivers a message to one processor, by the operating system's number; `false` when that cannot be, and the message goes where it
    /// went before.
    fn set_target(&self, message: u16, processor: u32) -> bool;
}

/// A clock that never runs backwards.
pub trait Clock {
    /// Microseconds since some fixed moment.
    fn now_us(&self) -> u64;

    /// Lets time pass during start-up and reset, where the driver has to wait for a register: sleeps, stalls or just returns.
    /// Never called on the request path.
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Normal operation.
    Info,
    /// The device misbehaved and the driver coped.
    Warning,
    /// The device is unusable until it is reset, or for good.
    Error,
}

/// One thing worth telling the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// How much it matters.
    pub severity: Severity,
    /// What happened, as a fixed sentence.
    pub what: &'static str,
    /// A number that belongs to it (a queue index, a status byte).
    pub value: u64,
}

/// Where events go. The shell limits the rate: a device can cause warnings.
pub trait Log {
    /// Records an event; never blocks.
    fn log(&self, event: Event);
}
