//! The virtual machine monitor.

fn main() {}
