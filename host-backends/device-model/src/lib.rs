//! The device trait: identity, config space, queues, reset.
