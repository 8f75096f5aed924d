//! The machine: memory map, buses, PCI, interrupts, doorbells and the few emulated devices a guest needs to boot.
//!
//! Its one rule: whatever the guest does to a register, of any size at any address, the machine goes on; it holds no
//! request path, because doorbells and interrupts connect guest and backend directly.

mod bus;
mod clock;
pub mod doorbells;
mod error;
pub mod interrupts;
pub mod layout;
mod machine;
pub mod pci;
mod power;
pub mod ram;
mod serial;
mod vcpu;

pub use doorbells::DoorbellMatch;
pub use doorbells::Doorbells;
pub use error::Error;
pub use interrupts::InterruptLine;
pub use interrupts::Interrupts;
pub use interrupts::MsiMessage;
pub use machine::Controls;
pub use machine::Entry;
pub use machine::Machine;
pub use machine::MachineSpec;
pub use power::Stop;
pub use ram::Ram;
pub use ram::RamRegion;

/// The result of everything in this crate.
pub type Result<T> = core::result::Result<T, Error>;
