//! The vhost-user server against scripted and foreign front-ends: the harness. One rule: every wait has a deadline, so a
//! broken server fails a test and never hangs it.

mod back_end;
mod device;
mod frontend;
mod guest;
pub mod log;
mod network;
mod process;
mod served;
mod serving;
mod stepped;

pub use back_end::BackEnd;
pub use device::EchoDevice;
pub use device::PANIC_MARK;
pub use frontend::Frontend;
pub use guest::Guest;
pub use guest::GuestQueue;
pub use guest::QueueShape;
pub use network::Machine;
pub use network::ServedCard;
pub use process::open_descriptors;
pub use process::resident_kib;
pub use served::Served;
pub use serving::Serving;
pub use stepped::Orders;
pub use stepped::Stepped;

/// Longest wait for anything.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Waits until `condition` holds; `false` at the deadline.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < DEADLINE {
        if condition() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}
