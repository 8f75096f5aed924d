//! The network device: queues, offloads, control queue, switch.
//!
//! One rule: a guest's header is read once, checked, and only the checked copy travels on.
