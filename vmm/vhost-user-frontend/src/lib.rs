//! A virtio-pci device whose queues a vhost-user backend serves.
