//! A freestanding guest that probes the machine and its disks.

fn main() {}
