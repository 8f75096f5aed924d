//! The network driver: transmit and receive state machines with start and complete.
//!
//! One rule: no operating system, no blocking, no unsafe.

#![no_std]
