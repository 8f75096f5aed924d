# A read-only disk shows its content and refuses every change.
. /common.sh
disk=/dev/vda
disk_appears $disk
[ "$(cat /sys/block/vda/ro)" = 1 ]
[ "$(blockdev --getro $disk)" = 1 ]
doing read
[ "$(head -c 16 $disk)" = "paravane-readonl" ]
doing refuse writes
if dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct 2>/dev/null; then
    say "failed: a write went through"
    exit 1
fi
if blkdiscard $disk 2>/dev/null; then
    say "failed: a discard went through"
    exit 1
fi
# Past the kernel's own check: make it believe that the disk is writable.
blockdev --setrw $disk || true
if dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct 2>/dev/null; then
    say "failed: a write went through after setrw"
    exit 1
fi
[ "$(head -c 16 $disk)" = "paravane-readonl" ]
say complete
