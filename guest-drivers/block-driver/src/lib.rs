//! The block request state machine, free of any operating system.
