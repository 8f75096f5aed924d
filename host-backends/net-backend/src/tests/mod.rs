//! The network device: its pure parts, and the whole against a driver in the same process.

mod receive_filter;
mod rss;
