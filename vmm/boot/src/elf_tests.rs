//! Tests of the ELF loader. One rule: every image is built from bytes here.

use super::*;
use crate::testing::Memory;

const KERNEL: u64 = 0x10_0000;

/// An ELF file with one PT_LOAD (8 bytes of code, 8 of bss) and one PT_NOTE.
pub(crate) fn image(entry: u32) -> Vec<u8> {
    let mut file = vec![0; 0x100];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 2;
    let mut header = |at: usize, kind: u32, offset: u64, len: u64, memory: u64| {
        file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        file[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
        file[at + 24..at + 32].copy_from_slice(&KERNEL.to_le_bytes());
        file[at + 32..at + 40].copy_from_slice(&len.to_le_bytes());
        file[at + 40..at + 48].copy_from_slice(&memory.to_le_bytes());
    };
    header(64, PT_LOAD, 0x100, 8, 16);
    header(120, PT_NOTE, 0x108, 40, 40);
    file.extend_from_slice(b"kernel!!");
    // A foreign note first, with an odd name length.
    for word in [2u32, 1, 18] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"A\0\0\0\x55\0\0\0");
    for word in [4u32, 4, 18] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&entry.to_le_bytes());
    file
}

#[test]
fn segments_are_loaded_and_bss_is_cleared() {
    let mut memory = Memory::new(2 << 20);
    let kernel = load_kernel(&image(0x10_0004), &mut memory).unwrap();
    assert_eq!(
        kernel,
        LoadedKernel {
            entry: 0x10_0004,
            end: KERNEL + 16
        }
    );
    assert_eq!(memory.at(KERNEL, 16), b"kernel!!\0\0\0\0\0\0\0\0");
}

#[test]
fn an_entry_outside_all_segments_is_refused() {
    let mut memory = Memory::new(2 << 20);
    for entry in [0, 0xf_ffff, 0x10_0010, u32::MAX] {
        assert!(matches!(
            load_kernel(&image(entry), &mut memory),
            Err(Error::BadElf(_))
        ));
    }
}

#[test]
fn a_kernel_larger_than_ram_is_refused() {
    let mut memory = Memory::new(1 << 20);
    let error = load_kernel(&image(0x10_0000), &mut memory);
    assert_eq!(
        error,
        Err(Error::KernelOutsideRam {
            address: KERNEL,
            len: 16
        })
    );
}

#[test]
fn a_kernel_on_the_boot_data_is_refused() {
    let mut memory = Memory::new(2 << 20);
    let mut file = image(0x7000);
    file[64 + 24..64 + 32].copy_from_slice(&0x7000u64.to_le_bytes());
    assert!(matches!(
        load_kernel(&file, &mut memory),
        Err(Error::KernelOnBootData { .. })
    ));
}

#[test]
fn other_files_are_told_from_kernels() {
    let mut memory = Memory::new(2 << 20);
    assert_eq!(load_kernel(b"", &mut memory), Err(Error::NotElf));
    assert_eq!(load_kernel(b"#!/bin/sh\n", &mut memory), Err(Error::NotElf));
    let mut file = image(0x10_0000);
    file[18] = 183;
    assert_eq!(load_kernel(&file, &mut memory), Err(Error::NotElf));
    let mut file = image(0x10_0000);
    file[120] = 9;
    assert_eq!(load_kernel(&file, &mut memory), Err(Error::NoPvhEntry));
}

#[test]
fn no_damage_to_any_byte_makes_the_loader_panic() {
    let mut memory = Memory::new(2 << 20);
    let good = image(0x10_0000);
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = load_kernel(&bad, &mut memory);
        }
        let _ = load_kernel(&good[..at], &mut memory);
    }
}
