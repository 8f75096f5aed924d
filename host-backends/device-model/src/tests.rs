//! Tests of the queue and the in-flight record.
