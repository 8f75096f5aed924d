//! `paravane-netd`: serves networks to virtual machines over vhost-user.

fn main() {}
