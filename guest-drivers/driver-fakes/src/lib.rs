//! Fakes that punish: a platform whose DMA breaks every driver that cheats, and virtio-pci devices that obey or lie as told.
//!
//! Rule: everything follows from one seed, so a failure repeats. The platform bounces each buffer through scattered pieces, fills what
//! it hands out and what it takes back with different patterns, lets the device reach only what is allocated or mapped now, and fails
//! an assertion when the driver maps twice, forgets to unmap or releases what it does not own.

mod arena;
mod balloon;
mod direct;
mod disk;
mod features;
mod function;
mod guest_pages;
pub mod heap;
mod net;
pub mod out_of_memory;
mod platform;
mod queues;
mod random;
mod registers;

pub use arena::Arena;
pub use arena::DeviceMemory;
pub use balloon::BalloonHabits;
pub use balloon::FakeBalloon;
pub use direct::DirectBuffer;
pub use direct::DirectPlatform;
pub use disk::FakeDisk;
pub use disk::Habits;
pub use features::feature_sets;
pub use function::FakeBar;
pub use function::FakeFunction;
pub use function::Layout;
pub use guest_pages::FakePages;
pub use guest_pages::FakeRam;
pub use guest_pages::Owner;
pub use net::FakeNet;
pub use net::GivenCommand;
pub use net::NetHabits;
pub use net::SentFrame;
pub use platform::FakeBuffer;
pub use platform::FakeInterrupts;
pub use platform::FakeMessages;
pub use platform::FakePlatform;
pub use random::Random;
pub use registers::Lies;
pub use registers::QueueRegisters;
pub use registers::Registers;
pub use registers::notify_name;
