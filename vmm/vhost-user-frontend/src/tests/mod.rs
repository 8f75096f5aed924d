//! Tests of the whole crate over real sockets. Rule: every wait has an end, and a backend here is not ours.

mod evil;
mod fake;
mod net_and_balloon;
mod pci;
mod reconnect;
mod reference;
mod session;
mod support;
