//! Modern virtio-pci: discovery, initialization, config generation.
