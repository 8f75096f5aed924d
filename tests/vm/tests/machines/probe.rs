//! The probe guest on our monitor, on this machine's KVM.
//!
//! One rule: without `/dev/kvm` these tests are skipped, and nothing else is.

pub fn verify() -> anyhow::Result<()> {
    vm::kvm()?;
    Err(vm::skip("the monitor is not there yet"))
}

pub fn packed_queues() -> anyhow::Result<()> {
    vm::kvm()?;
    Err(vm::skip("the monitor is not there yet"))
}

pub fn killed() -> anyhow::Result<()> {
    vm::kvm()?;
    Err(vm::skip("the monitor is not there yet"))
}
