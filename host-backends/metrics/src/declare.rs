//! How metrics are declared.
//!
//! Rule: a name says its unit, which the declaration repeats and the compiler checks.

use crate::sample::Metric;
use crate::sample::Number;
use crate::sample::Samples;

/// Metrics of one subject, declared by [`metrics!`](crate::metrics) or [`counters!`](crate::counters).
pub trait MetricSet: Sized {
    /// What they are, in the order in which they were declared.
    const METRICS: &'static [Metric];

    /// Their values, in the same order.
    fn numbers(&self) -> Vec<Option<Number>>;

    /// Both.
    fn samples(&self) -> Samples {
        Samples::of(self)
    }
}

/// Where a holder counts, declared by [`counters!`](crate::counters).
pub trait CounterSet {
    /// The sums as plain numbers.
    type Sums: MetricSet + Default;

    /// Adds the values now to `sums`.
    fn add_to(&self, sums: &mut Self::Sums);

    /// The values now.
    fn sums(&self) -> Self::Sums {
        let mut sums = Self::Sums::default();
        self.add_to(&mut sums);
        sums
    }
}

/// Whether `name` ends with `unit`, which is `_bytes` or `_seconds`, or with neither where there is no unit.
pub const fn is_well_named(name: &str, unit: &str) -> bool {
    let (bytes, seconds) = (ends_with(name, "_bytes"), ends_with(name, "_seconds"));
    match unit.as_bytes() {
        b"" => !bytes && !seconds,
        b"_bytes" => bytes,
        b"_seconds" => seconds,
        _ => false,
    }
}

const fn ends_with(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    if text.len() < end.len() {
        return false;
    }
    let mut at = 0;
    while at < end.len() {
        if text[text.len() - end.len() + at] != end[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Declares a struct of metrics: each field with its meaning, type (`u64`, `f64`, `bool`, or an `Option` of one), kind and,
/// if it has one, unit. A counter's name gets the ending `_total`; all names get what stands after the struct's `named`.
///
/// ```
/// metrics::metrics! {
///     /// How a lamp fares.
///     pub struct LampMetrics {
///         /// Times that it was lit.
///         switched: u64 as counter,
///         /// How long it has been lit.
///         lit_seconds: f64 as gauge in seconds,
///     }
/// }
/// use metrics::MetricSet;
/// let lamp = LampMetrics { switched: 2, lit_seconds: 0.5 };
/// let json = lamp.samples().json();
/// assert_eq!(json.to_string(), r#"{"lit_seconds":0.5,"switched_total":2}"#);
/// ```
#[macro_export]
macro_rules! metrics {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::metrics! { $(#[$meta])* $vis struct $name named "" { $($fields)* } }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident named $prefix:literal {
        $($(#[doc = $help:literal])+ $field:ident: $type:ty as $kind:ident $(in $unit:ident)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        $vis struct $name {
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl $crate::MetricSet for $name {
            const METRICS: &'static [$crate::Metric] = &[$($crate::Metric {
                name: $crate::__name!($kind, $prefix, $field),
                help: ::core::concat!($($help),+),
                kind: $crate::__kind!($kind),
            }),*];

            fn numbers(&self) -> ::std::vec::Vec<::core::option::Option<$crate::Number>> {
                ::std::vec![$($crate::Measured::number(self.$field)),*]
            }
        }

        $(const _: () = ::core::assert!(
            $crate::is_well_named(
                ::core::concat!($prefix, ::core::stringify!($field)),
                ::core::concat!($("_", ::core::stringify!($unit))?),
            ),
            "a metric's name ends with its unit",
        );)*
    };
}

/// Declares counters twice over: where a holder counts, in cells of a kind ([`Counter`](crate::Counter) or
/// [`SharedCounter`](crate::SharedCounter)), and the sums as [`metrics!`](crate::metrics) declares them.
///
/// ```
/// metrics::counters! {
///     /// What bells have done.
///     pub struct Bells named "bell_",
///     /// What one bell does.
///     struct Bell of metrics::Counter {
///         /// Times that it rang.
///         rings,
///         /// Bytes of its melodies.
///         melody_bytes in bytes,
///     }
/// }
/// use metrics::{CounterSet, MetricSet};
/// let bell = Bell::default();
/// bell.rings.add(3);
/// let json = bell.sums().samples().json();
/// assert_eq!(json["bell_rings_total"], 3);
/// ```
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident, $($rest:tt)*) => {
        $crate::counters! { $(#[$meta])* $vis struct $name named "", $($rest)* }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident named $prefix:literal,
    $(#[$cells_meta:meta])* $cells_vis:vis struct $cells:ident of $cell:ty {
        $($(#[doc = $help:literal])+ $field:ident $(in $unit:ident)?,)*
    }) => {
        $crate::metrics! {
            $(#[$meta])*
            #[derive(Eq)]
            $vis struct $name named $prefix {
                $($(#[doc = $help])+ $field: u64 as counter $(in $unit)?,)*
            }
        }

        $(#[$cells_meta])*
        #[derive(Debug, Default)]
        $cells_vis struct $cells {
            $($(#[doc = $help])+ pub $field: $cell,)*
        }

        impl $crate::CounterSet for $cells {
            type Sums = $name;

            fn add_to(&self, sums: &mut $name) {
                $(sums.$field += self.$field.get();)*
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __name {
    (counter, $prefix:literal, $field:ident) => {
        ::core::concat!($prefix, ::core::stringify!($field), "_total")
    };
    (gauge, $prefix:literal, $field:ident) => {
        ::core::concat!($prefix, ::core::stringify!($field))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kind {
    (counter) => {
        $crate::Kind::Counter
    };
    (gauge) => {
        $crate::Kind::Gauge
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_unit_that_is_declared_and_no_other() {
        assert!(is_well_named("reads", ""));
        assert!(is_well_named("read_bytes", "_bytes"));
        assert!(is_well_named("uptime_seconds", "_seconds"));
        assert!(!is_well_named("read", "_bytes"));
        assert!(!is_well_named("read_bytes", ""));
        assert!(!is_well_named("read_bytes", "_seconds"));
        assert!(!is_well_named("uptime_milliseconds", "_milliseconds"));
    }
}
