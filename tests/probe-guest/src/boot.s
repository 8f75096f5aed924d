# PVH entry, descriptor tables and interrupt stubs: the only code that runs at CPL 0.
#
# Everything else runs at CPL 3: a KVM without hardware virtualization emulates CPL 0 but runs CPL 3 at full speed. So there are few
# instructions here, and only such as KVM's emulator knows. The page tables stand ready in the image: identity map of 4 GiB in
# 2 MiB pages, user accessible.

.section .note.Xen, "a", @note
    .long 4, 4, 18                  # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

.section .boot, "ax", @progbits
.code32
.globl pvh_start
pvh_start:                          # EBX = physical address of hvm_start_info
    mov esp, offset kernel_stack_top
    mov dword ptr [start_info_address], ebx
    mov eax, offset task_state
    mov word ptr [gdt_task_state + 2], ax
    shr eax, 16
    mov byte ptr [gdt_task_state + 4], al
    mov byte ptr [gdt_task_state + 7], ah
    mov al, 0xff                    # firmware may have left the old interrupt controllers on
    out 0x21, al
    out 0xa1, al
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    mov eax, 0x620                  # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: long mode enable
    xor edx, edx
    mov eax, 0x100
    wrmsr
    mov eax, 0x80010033             # PG, WP, NE, ET, MP, PE
    mov cr0, eax
    .byte 0xea                      # far jump to 0x10:long_start
    .long long_start
    .word 0x10
.code64
long_start:
    mov eax, 0x40
    ltr ax
    mov eax, 0x2b
    mov ds, eax
    mov es, eax
    push 0x2b                       # SS
    push offset user_stack_top      # RSP
    push 0x202                      # RFLAGS: interrupts on
    push 0x33                       # CS
    push offset user_start
    iretq

.code64
user_start:
    mov edi, dword ptr [rip + start_info_address]
    xor ebp, ebp
    call probe_main
    ud2

# Interrupts: count, end of interrupt, return. One stub for all vectors.
.globl irq_stub
.balign 16
irq_stub:
    inc qword ptr [rip + irq_total]
    push rax
    mov eax, 0xfee000b0             # local APIC, end of interrupt
    mov dword ptr [rax], 0
    pop rax
    iretq

.globl spurious_stub
.balign 16
spurious_stub:
    iretq

# Exceptions 0 to 31: keep the facts, continue at CPL 3 in the report. 16 bytes per stub.
.globl exception_stubs
.balign 16
exception_stubs:
.set number, 0
.rept 32
    .balign 16
    .if (number == 8) || ((number >= 10) && (number <= 14)) || (number == 17) || (number == 21) || (number == 29) || (number == 30)
    .else
    push 0
    .endif
    push number
    jmp exception_common
    .set number, number + 1
.endr
.balign 16
exception_common:
    pop qword ptr [rip + fault_vector]
    pop qword ptr [rip + fault_error]
    push rax
    mov rax, qword ptr [rsp + 8]
    mov qword ptr [rip + fault_rip], rax
    mov rax, cr2
    mov qword ptr [rip + fault_address], rax
    lea rax, [rip + fault_entry]
    mov qword ptr [rsp + 8], rax
    pop rax
    iretq
fault_entry:
    lea rsp, [rip + user_stack_top]
    call fault_report
    ud2

# The way from CPL 3 to CPL 0 is an undefined instruction at one known address. Sleeps unless interrupts were counted since RDI.
.globl gateway_stub
.balign 16
gateway_stub:
    push rax
    lea rax, [rip + gateway_instruction]
    cmp qword ptr [rsp + 8], rax
    pop rax
    jne gateway_foreign
    cmp qword ptr [rip + irq_total], rdi
    jne gateway_return
    sti
    hlt
    cli
gateway_return:
    add qword ptr [rsp], 2
    iretq
gateway_foreign:
    push 0
    push 6
    jmp exception_common

.section .text, "ax", @progbits
.globl sleep_until_interrupt
sleep_until_interrupt:              # RDI = interrupt count seen so far
gateway_instruction:
    ud2
    ret

# The memory functions that the compiler calls; string instructions run at full speed everywhere.
.globl memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
.globl memmove
memmove:
    mov rax, rdi
    mov rcx, rdx
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx
    jb 1f
    rep movsb
    ret
1:  lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
.globl memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
.globl memcmp
.globl bcmp
memcmp:
bcmp:
    xor eax, eax
    test rdx, rdx
    je 2f
1:  movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 2f
    inc rdi
    inc rsi
    dec rdx
    jne 1b
2:  ret
.globl strlen
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
.globl rust_eh_personality
rust_eh_personality:
.globl _Unwind_Resume
_Unwind_Resume:
    ud2

.section .tables, "aw", @progbits
.balign 4096
.globl page_map
page_map:
    .quad page_pointers + 7
    .skip 4088
page_pointers:
    .quad page_directories + 7
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .quad page_directories + 0x3007
    .skip 4064
page_directories:
.set number, 0
.rept 2048
    .quad (number << 21) + 0x87
    .set number, number + 1
.endr
.globl interrupt_gates
interrupt_gates:
    .skip 4096
task_state:
    .long 0
    .quad kernel_stack_top          # RSP0
    .skip 0x66 - 12
    .word 0x68                      # the I/O permission bitmap: all ports allowed
    .skip 8192
    .byte 0xff
.balign 16
gdt:
    .quad 0, 0
    .quad 0x00af9b000000ffff        # 0x10: 64-bit code, CPL 0
    .quad 0x00cf93000000ffff        # 0x18: data, CPL 0
    .quad 0x00cffb000000ffff        # 0x20: 32-bit code, CPL 3
    .quad 0x00cff3000000ffff        # 0x28: data, CPL 3
    .quad 0x00affb000000ffff        # 0x30: 64-bit code, CPL 3
    .quad 0
gdt_task_state:
    .quad 0x0000890000002068        # 0x40: task state, base filled in at entry
    .quad 0
gdt_pointer:
    .word 0x4f
    .long gdt
    .long 0
idt_pointer:
    .word 0xfff
    .long interrupt_gates
    .long 0
.balign 8
start_info_address: .quad 0
.globl irq_total
irq_total: .quad 0
.globl fault_vector
fault_vector: .quad 0
.globl fault_error
fault_error: .quad 0
.globl fault_rip
fault_rip: .quad 0
.globl fault_address
fault_address: .quad 0

.section .bss, "aw", @nobits
.balign 4096
    .skip 16384
kernel_stack_top:
    .skip 262144
user_stack_top:
