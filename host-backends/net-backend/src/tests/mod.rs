//! The network device: its pure parts, and the whole against a driver in the same process.

mod control;
mod control_rig;
mod device;
mod interface;
mod journal;
mod receive_filter;
mod rss;
mod spec;
