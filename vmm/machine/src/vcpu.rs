//! The loop of one vCPU thread: run the guest, hand its port and memory accesses to the machine.
//!
//! One rule: only a stop request or KVM's own failure ends the loop; nothing the guest does.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use kvm::Exit;
use kvm::Vcpu;

use crate::Stop;
use crate::bus::Ports;
use crate::pci::host::PciHost;

/// What the vCPUs of one machine share.
pub(crate) struct Buses {
    pub(crate) ports: Ports,
    pub(crate) pci: Arc<PciHost>,
}

/// Runs `vcpu` until `stop` is set; gives it back for the next start.
pub(crate) fn run(mut vcpu: Vcpu, buses: &Buses, stop: &AtomicBool, events: &Sender<Stop>) -> Vcpu {
    while !stop.load(Ordering::Acquire) {
        let ended = match vcpu.run() {
            Ok(exit) => handle(exit, buses),
            Err(error) => Some(Stop::Failed(error.to_string())),
        };
        if let Some(reason) = ended {
            // The receiver lives as long as the machine.
            let _ = events.send(reason);
            break;
        }
    }
    vcpu.finish_access();
    vcpu
}

fn handle(exit: Exit<'_>, buses: &Buses) -> Option<Stop> {
    match exit {
        Exit::PortRead { port, size, data } => {
            data.chunks_mut(size)
                .for_each(|item| buses.ports.read(port, item));
        }
        Exit::PortWrite { port, size, data } => {
            data.chunks(size)
                .for_each(|item| buses.ports.write(port, item));
        }
        Exit::MmioRead { address, data } => {
            if !buses.pci.memory_read(address, data) {
                data.fill(0xff);
            }
        }
        Exit::MmioWrite { address, data } => {
            buses.pci.memory_write(address, data);
        }
        Exit::Interrupted => {}
        Exit::Halted => return Some(Stop::PowerOff),
        Exit::Shutdown => return Some(Stop::Reset("triple fault")),
        Exit::Failed(text) => return Some(Stop::Failed(text)),
    }
    None
}
