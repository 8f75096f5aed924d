//! The balloon driver: inflate, deflate, statistics, hints and reports as a state machine.
//!
//! One rule: no operating system, no blocking, no unsafe.

#![no_std]
