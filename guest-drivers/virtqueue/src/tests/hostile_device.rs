//! Our driver half against a hostile device.
