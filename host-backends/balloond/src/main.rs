//! `paravane-balloond`: serves balloons to virtual machines over vhost-user, and moves memory between them.
mod policy;

fn main() {}
