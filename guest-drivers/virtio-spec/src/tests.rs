//! Cross-checks against `virtio-bindings`, generated from the kernel's headers.
