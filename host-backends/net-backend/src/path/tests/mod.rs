//! The frame path against drivers in the same process: lies in headers and chains, buffers of every shape, neighbours that
//! misbehave.

pub mod rig;

mod conditions;
mod headers;
mod legacy;
mod links;
mod neighbours;
mod policies;
mod receiving;
mod sending;
mod stations;
