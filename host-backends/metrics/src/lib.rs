//! Counters and gauges: each is declared once with its name, kind, unit and meaning.
//!
//! One rule: JSON and Prometheus text both come from that declaration, so that whatever is counted is exported, under one
//! name: snake case, base units (`_bytes`, `_seconds`), `_total` for what only grows.
#![forbid(unsafe_code)]

mod cell;
mod declare;
mod exposition;
mod sample;

pub use cell::Counter;
pub use cell::SharedCounter;
pub use declare::CounterSet;
pub use declare::MetricSet;
#[doc(hidden)]
pub use declare::is_well_named;
pub use exposition::Exposition;
pub use exposition::Labels;
pub use sample::Kind;
pub use sample::Measured;
pub use sample::Metric;
pub use sample::Number;
pub use sample::Sample;
pub use sample::Samples;
