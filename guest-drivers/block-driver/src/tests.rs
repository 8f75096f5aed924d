//! Tests of the pure parts; the whole driver is tested against a device in `driver-fakes` and `loopback`.
