//! Tests of the PCI host.
