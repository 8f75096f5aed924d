//! Tests of the configuration space. One rule: the guest may write anything anywhere.

use super::*;

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_8000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    space.add_bar(0, BarKind::Memory64, 0x8000).unwrap();
    space.add_bar(2, BarKind::Memory32, 0x1000).unwrap();
    space
}

#[test]
fn the_header_says_who_it_is() {
    let space = space();
    assert_eq!(space.u32_at(0), 0x1042_1af4);
    assert_eq!(space.u32_at(8), 0x0180_0001);
    assert_eq!(space.u32_at(0x2c), 0x1100_1af4);
}

#[test]
fn writing_ones_to_a_bar_shows_its_size() {
    let mut space = space();
    space.place_bar(0, 0xc000_0000);
    space.write(0x10, &[0xff; 8]);
    assert_eq!(space.u32_at(0x10), 0xffff_8004);
    assert_eq!(space.u32_at(0x14), 0xffff_ffff);
    space.write(0x18, &[0xff; 4]);
    assert_eq!(space.u32_at(0x18), 0xffff_f000);
    // A register without a BAR stays zero, as does the expansion ROM.
    space.write(0x1c, &[0xff; 4]);
    space.write(0x30, &[0xff; 4]);
    assert_eq!((space.u32_at(0x1c), space.u32_at(0x30)), (0, 0));
}

#[test]
fn bars_follow_what_firmware_or_guest_wrote() {
    let mut space = space();
    space.place_bar(0, 0x4_0000_0000);
    space.place_bar(2, 0xc000_0000);
    space.place_bar(5, 0xc000_0000);
    space.write(0x14, &7u32.to_le_bytes());
    let addresses: Vec<u64> = space.bars().iter().map(|bar| bar.address).collect();
    assert_eq!(addresses, [0x7_0000_0000, 0xc000_0000]);
}

#[test]
fn impossible_bars_are_refused() {
    let mut space = space();
    for (index, kind, size) in [
        (1, BarKind::Memory32, 0x1000),
        (2, BarKind::Memory32, 0x1000),
        (5, BarKind::Memory64, 0x1000),
        (6, BarKind::Memory32, 0x1000),
        (3, BarKind::Memory32, 0x1001),
        (3, BarKind::Memory32, 0x800),
        (3, BarKind::Memory32, 0),
    ] {
        assert!(
            space.add_bar(index, kind, size).is_err(),
            "{index} {size:#x}"
        );
    }
}

#[test]
fn capabilities_are_chained_until_there_is_no_room() {
    let mut space = space();
    assert_eq!(space.u16_at(6) & 0x10, 0);
    let first = space.add_capability(9, &[3, 0xaa], &[]).unwrap();
    let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).unwrap();
    assert_ne!(space.u16_at(6) & 0x10, 0);
    assert_eq!(space.u16_at(0x34) & 0xff, first);
    assert_eq!(space.u16_at(first.into()), 9 | (second << 8));
    assert_eq!(space.u16_at(second.into()), 0x11);
    space.write(second, &[0xff; 12]);
    assert_eq!(space.u32_at(second.into()), 0xc000_0011);
    assert!(space.add_capability(9, &[0; 254], &[]).is_err());
    let mut added = 0;
    while space.add_capability(9, &[0; 14], &[]).is_ok() {
        added += 1;
    }
    assert_eq!(added, (0x100 - usize::from(second) - 12) / 16);
}

#[test]
fn only_the_writable_bits_ever_change() {
    let mut space = space();
    let before = space.clone();
    for offset in (0..0x1010).chain([u16::MAX - 7, u16::MAX]) {
        for len in 0..=8 {
            space.write(offset, &vec![0xff; len]);
            space.read(offset, &mut vec![0; len]);
        }
    }
    for at in 0..SIZE {
        let changed = space.bytes[at] ^ before.bytes[at];
        assert_eq!(changed & !space.writable[at], 0, "{at:#x}");
    }
    space.reset();
    assert_eq!(space.bytes, before.bytes);
}
