//! Tests of the whole crate over real sockets. Rule: every wait has an end, and a backend here is not ours.

mod evil;
mod fake;
mod pci;
mod reconnect;
mod reference;
mod session;
mod support;
