//! Boot loaders and firmware tables as pure functions: bytes in, bytes at guest addresses out.
//!
//! Its one rule: nothing here opens a file or knows a hypervisor; a hostile kernel image gives an error, no more.

pub mod acpi;
mod elf;
mod error;
mod pvh;

pub use elf::LoadedKernel;
pub use elf::load_kernel;
pub use error::Error;
pub use pvh::BootPlan;
pub use pvh::MemoryKind;
pub use pvh::MemoryRange;
pub use pvh::START_INFO;
pub use pvh::load_initrd;
pub use pvh::write_start_info;

/// The result of everything in this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// Guest memory as the loaders see it. Implemented by the monitor over the machine's RAM, by tests over a vector.
pub trait Sink {
    /// Stores `data` at a guest physical address. False if any byte of it is not RAM.
    #[must_use]
    fn write(&mut self, address: u64, data: &[u8]) -> bool;
    /// Stores zeroes. False if any byte is not RAM.
    #[must_use]
    fn zero(&mut self, address: u64, len: u64) -> bool;
}

#[cfg(test)]
pub(crate) mod testing {
    //! A sink of a few megabytes for unit tests.

    /// Guest memory in a vector, filled with 0xaa so that missing writes show.
    pub(crate) struct Memory(pub(crate) Vec<u8>);

    impl Memory {
        pub(crate) fn new(size: usize) -> Self {
            Self(vec![0xaa; size])
        }

        pub(crate) fn at(&self, address: u64, len: usize) -> &[u8] {
            &self.0[address as usize..][..len]
        }

        pub(crate) fn u64_at(&self, address: u64) -> u64 {
            u64::from_le_bytes(self.at(address, 8).try_into().unwrap())
        }

        pub(crate) fn u32_at(&self, address: u64) -> u32 {
            u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
        }
    }

    impl Memory {
        fn slot(&mut self, address: u64, len: u64) -> Option<&mut [u8]> {
            let start = usize::try_from(address).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            self.0.get_mut(start..end)
        }
    }

    impl super::Sink for Memory {
        fn write(&mut self, address: u64, data: &[u8]) -> bool {
            self.slot(address, data.len() as u64)
                .map(|slot| slot.copy_from_slice(data))
                .is_some()
        }

        fn zero(&mut self, address: u64, len: u64) -> bool {
            self.slot(address, len).map(|slot| slot.fill(0)).is_some()
        }
    }
}
