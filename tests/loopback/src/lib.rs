//! The real driver core against the real backend, in one process: no socket, no VM, no KVM.
//!
//! Rule: what joins them is only what a transport would carry: register writes on one side, shared memory, and the calls that a session
//! makes on the other.

mod backend;
mod memory;
mod net_rates;
mod rates;

pub use backend::Backend;
pub use memory::Shared;
pub use memory::shared_arena;
pub use memory::shared_memory;
pub use net_rates::NetRates;
pub use net_rates::NetWorkload;
pub use net_rates::measure_net;
pub use rates::Rates;
pub use rates::Workload;
pub use rates::measure;
