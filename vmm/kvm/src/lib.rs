//! A thin safe layer over KVM: the VM, its vCPUs, memory slots, interrupt routes and doorbells.
//!
//! Its one rule: everything `unsafe` that the VMM needs is here, and nothing here knows a device or a memory map.

pub mod cpuid;
mod error;
mod event;
mod memory;
mod state;
mod vcpu;
mod vm;

pub use error::Error;
pub use memory::GuestRam;
pub use state::IrqchipState;
pub use state::VcpuState;
pub use vcpu::Exit;
pub use vcpu::Vcpu;
pub use vcpu::install_kick;
pub use vcpu::kick;
pub use vm::DoorbellAddress;
pub use vm::DoorbellValue;
pub use vm::Hypervisor;
pub use vm::Route;
pub use vm::Vm;

/// The result of everything in this crate.
pub type Result<T> = core::result::Result<T, Error>;
