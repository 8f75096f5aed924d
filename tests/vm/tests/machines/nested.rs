//! The same Debian kernel on our monitor, in the nested KVM of a QEMU without hardware help.
//!
//! One rule: the outer guest (L1) only starts our programs; the test is the inner guest (L2).

pub fn debian() -> anyhow::Result<()> {
    Err(vm::skip("the monitor is not there yet"))
}
