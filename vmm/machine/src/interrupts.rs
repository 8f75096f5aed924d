//! Interrupt lines that a device signals through an eventfd, so that no interrupt passes through the VMM.
//!
//! One rule: a line's event descriptor stays the same for the line's life; routing and masking happen behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use host_os::EventFd;
use host_os::sync::lock;
use kvm::Route;
use kvm::Vm;

use crate::Error;
use crate::Result;
use crate::layout::IOAPIC_LINES;

/// Address and data of a message-signalled interrupt, as the guest wrote them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// 64-bit message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// Where a PCI function gets its interrupt lines.
pub trait Interrupts: Send + Sync {
    /// Allocates a line, masked and without a message. Dropping the line frees it.
    fn allocate(&self) -> Result<Box<dyn InterruptLine>>;
}

/// One message-signalled interrupt. Called by the function's owner under its lock, from vCPU threads.
pub trait InterruptLine: Send + Sync {
    /// Write 1 to raise the interrupt: from any thread or process. Writes while masked stay pending in the descriptor.
    fn event(&self) -> &EventFd;
    /// Delivers events to the guest as `message` from now on; pending ones at once. Idempotent.
    fn unmask(&self, message: MsiMessage) -> Result<()>;
    /// Stops delivery; events collect in the descriptor. Idempotent.
    fn mask(&self) -> Result<()>;
}

/// Lines are numbered below this (KVM's own limit).
const LINES_END: u32 = 4096;

/// The interrupt lines of one VM: the fixed ones of the 8259s and the I/O APIC, and the allocated messages.
pub(crate) struct InterruptTable {
    vm: Arc<Vm>,
    /// Lines in use; None has no message yet.
    messages: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl InterruptTable {
    /// Sets up the fixed lines.
    pub(crate) fn new(vm: Arc<Vm>) -> Result<Arc<Self>> {
        let table = Self {
            vm,
            messages: Mutex::new(BTreeMap::new()),
        };
        table.vm.set_routes(&fixed_routes())?;
        Ok(Arc::new(table))
    }

    /// A handle to allocate lines through.
    pub(crate) fn handle(self: &Arc<Self>) -> Arc<dyn Interrupts> {
        Arc::new(Handle(Arc::clone(self)))
    }

    /// Joins `event` to a fixed line, for good.
    pub(crate) fn connect(&self, event: &EventFd, line: u8) -> Result<()> {
        Ok(self.vm.add_irqfd(event, u32::from(line))?)
    }

    fn route(&self, gsi: u32, message: MsiMessage) -> Result<()> {
        let mut messages = lock(&self.messages);
        let before = messages.insert(gsi, Some(message)).flatten();
        let result = self.vm.set_routes(&routes(&messages));
        if result.is_err() {
            // One message that KVM does not take must not spoil the table for all others.
            messages.insert(gsi, before);
        }
        Ok(result?)
    }
}

/// Lines 0 to 23: both interrupt controllers see them, and the timer's line 0 is pin 2 of the I/O APIC.
fn fixed_routes() -> Vec<Route> {
    let lines = (0..IOAPIC_LINES).filter(|gsi| *gsi != 2);
    lines
        .flat_map(|gsi| {
            let pin = (gsi & 0xff) as u8;
            let pic = (gsi < 16).then_some(Route::Pic { gsi, pin });
            let io_apic = Route::IoApic {
                gsi,
                pin: if gsi == 0 { 2 } else { pin },
            };
            pic.into_iter().chain([io_apic])
        })
        .collect()
}

fn routes(messages: &BTreeMap<u32, Option<MsiMessage>>) -> Vec<Route> {
    let message = |(gsi, message): (&u32, &Option<MsiMessage>)| {
        let MsiMessage { address, data } = (*message)?;
        Some(Route::Msi {
            gsi: *gsi,
            address,
            data,
        })
    };
    let mut all = fixed_routes();
    all.extend(messages.iter().filter_map(message));
    all
}

struct Handle(Arc<InterruptTable>);

impl Interrupts for Handle {
    fn allocate(&self) -> Result<Box<dyn InterruptLine>> {
        let event = EventFd::new().map_err(Error::EventFd)?;
        let mut messages = lock(&self.0.messages);
        let gsi = (IOAPIC_LINES..LINES_END)
            .find(|gsi| !messages.contains_key(gsi))
            .ok_or(Error::NoInterrupt)?;
        messages.insert(gsi, None);
        Ok(Box::new(Line {
            table: Arc::clone(&self.0),
            gsi,
            event,
            state: Mutex::new(LineState::default()),
        }))
    }
}

#[derive(Default)]
struct LineState {
    attached: bool,
    message: Option<MsiMessage>,
}

struct Line {
    table: Arc<InterruptTable>,
    gsi: u32,
    event: EventFd,
    state: Mutex<LineState>,
}

impl InterruptLine for Line {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn unmask(&self, message: MsiMessage) -> Result<()> {
        let mut state = lock(&self.state);
        if state.message != Some(message) {
            self.table.route(self.gsi, message)?;
            state.message = Some(message);
        }
        if !state.attached {
            self.table.vm.add_irqfd(&self.event, self.gsi)?;
            state.attached = true;
        }
        Ok(())
    }

    fn mask(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if state.attached {
            self.table.vm.remove_irqfd(&self.event, self.gsi)?;
            state.attached = false;
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.mask();
        lock(&self.table.messages).remove(&self.gsi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_pin_2_and_nothing_else_is() {
        let pins: Vec<_> = fixed_routes()
            .into_iter()
            .filter(|route| matches!(route, Route::IoApic { pin: 2, .. }))
            .collect();
        assert_eq!(pins, [Route::IoApic { gsi: 0, pin: 2 }]);
        assert_eq!(fixed_routes().len(), 23 + 15);
    }

    #[test]
    fn lines_without_a_message_are_not_routed() {
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x40,
        };
        let messages = BTreeMap::from([(24, None), (25, Some(message))]);
        let all = routes(&messages);
        assert_eq!(all.len(), fixed_routes().len() + 1);
        assert!(all.contains(&Route::Msi {
            gsi: 25,
            address: 0xfee0_0000,
            data: 0x40
        }));
    }
}
