# The inner guest (L2): Debian's virtio_balloon, from its initramfs.
. /common.sh
free() { $b awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo; }
# Waits until "$1 $2 free memory in MiB" holds.
until_free() {
    n=0
    until [ "$(free)" "$1" "$2" ]; do
        n=$((n + 1))
        [ $n -lt 300 ] || { say "failed: $(free) MiB are free, not $1 $2"; exit 1; }
        $b sleep 0.2
    done
}
fill() { $b dd if=/dev/zero bs=64k count=1536 2>/dev/null | $b tr '\000' "$1" > /dev/shm/fill; }
right() { [ "$($b tr -d "$1" < /dev/shm/fill | $b wc -c)" = 0 ]; }
say "driver $($b cat /sys/bus/virtio/devices/virtio0/features)"
doing fill and verify
fill x
right x
say "filled $(free)"
until_free -lt $(($(free) - 10))
$b rm /dev/shm/fill
full=$(free)
doing report free memory
$b sleep 8
say "emptied $(free)"
doing inflate
until_free -lt $((full - 100))
say "inflated $(free)"
doing deflate
until_free -gt "$full"
say "deflated $(free)"
doing use it again
fill y
right y
say "refilled $(free)"
until_free -lt $(($(free) - 10))
say inner complete
