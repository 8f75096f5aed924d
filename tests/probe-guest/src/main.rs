#![cfg_attr(freestanding, no_std, no_main)]
core::arch::global_asm!(include_str!("boot.s"));
#[unsafe(no_mangle)]
extern "C" fn probe_main(_info: u64) -> ! { for &b in b"hello from cpl3\n" { unsafe { core::arch::asm!("out dx, al", in("dx") 0x3f8u16, in("al") b) } } 
 let s=b"string io works\n"; unsafe { core::arch::asm!("rep outsb", inout("rsi") s.as_ptr()=>_, inout("rcx") s.len()=>_, in("dx") 0x3f8u16) }
 loop { unsafe { core::arch::asm!("out dx, al", in("dx") 0xf4u16, in("al") 3u8) }} }
#[unsafe(no_mangle)]
extern "C" fn fault_report() -> ! { loop {} }
#[panic_handler] fn p(_: &core::panic::PanicInfo) -> ! { loop {} }
