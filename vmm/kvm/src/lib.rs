//! KVM: VM, vCPUs, memory slots, interrupts, doorbells.
