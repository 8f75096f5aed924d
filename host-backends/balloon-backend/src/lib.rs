//! The balloon device: pages given back to the host, statistics taken from the guest.
//!
//! One rule: a page is released only if it lies wholly inside guest memory and the guest gave it up.
