//! The machine: memory map, buses, PCI, interrupts, emulated devices.
