//! The disk against a driver in the same process: real rings, real memory, real images.

mod block_device;
mod bounds;
mod cache;
mod config;
mod durable;
mod engines;
mod faults;
mod filters;
mod hostile;
mod image;
mod properties;
mod ranges;
mod reflink;
mod requests;
mod resize;
mod rig;
mod spec;

use rig::Rig;
use rig::image_of;
