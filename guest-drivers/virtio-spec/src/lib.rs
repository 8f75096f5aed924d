//! Virtio 1.4 ids, feature bits, config layouts, request headers and ring layouts, each citing its section.
