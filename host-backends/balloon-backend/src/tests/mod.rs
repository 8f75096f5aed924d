//! The device against a driver that the test writes. One rule: what went back to the host is what the kernel says of the
//! memory's file, and every byte outside the balloon is still there.

mod config;
mod hints;
mod hostile;
mod huge;
mod inflate;
mod life;
mod reporting;
mod rig;
mod statistics;
