//! The vhost-user block daemon.

fn main() {}
