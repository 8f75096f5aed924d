//! What a guest driver needs of its operating system, as traits that a kernel shell implements.
//!
//! Rule: nothing here blocks, allocates behind the driver's back or names an operating system. A shell (a Windows miniport, a
//! Linux module, the probe guest, the fakes of the tests) implements [`Dma`], [`PciFunction`], [`Mmio`], [`Interrupts`], [`Clock`]
//! and [`Log`]; the driver cores above hold all the logic. `guest-drivers/README.md` says what else a shell does.
#![no_std]

mod dma;
mod pci;
mod services;

pub use dma::BufferBytes;
pub use dma::Coherent;
pub use dma::DeviceRange;
pub use dma::Direction;
pub use dma::Dma;
pub use dma::DmaError;
pub use pci::Mmio;
pub use pci::PciFunction;
pub use services::Clock;
pub use services::Event;
pub use services::Interrupts;
pub use services::Log;
pub use services::Severity;

/// Everything that a device driver core asks for besides its PCI function.
pub trait Platform: Dma + Clock + Log {}

impl<T: Dma + Clock + Log> Platform for T {}
