# A guest with a balloon: it fills memory, gives it up when told, and keeps what it did not give.
. /common.sh
word() { $b awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat; }
doing find the balloon
n=0
while [ ! -e /sys/bus/virtio/drivers/virtio_balloon/virtio0 ]; do
    n=$((n + 1))
    [ $n -lt 100 ] || { say "failed: no balloon"; exit 1; }
    $b sleep 0.1
done
say "features $($b cat /sys/bus/virtio/devices/virtio0/features)"
doing fill memory and keep a part
$b dd if=/dev/urandom of=/tmp/kept bs=1M count=64 2>/dev/null
sum=$($b md5sum < /tmp/kept)
$b dd if=/dev/zero of=/tmp/given bs=1M count=160 2>/dev/null
ask filled
$b rm /tmp/given
ask freed
doing inflate
while [ "$(word balloon_inflate)" -lt 49152 ]; do $b sleep 0.2; done
say "inflated $(word balloon_inflate)"
ask small
[ "$sum" = "$($b md5sum < /tmp/kept)" ]
doing deflate
while [ "$(word balloon_deflate)" -lt 32768 ]; do $b sleep 0.2; done
doing use it again
$b dd if=/dev/zero of=/tmp/given bs=1M count=128 2>/dev/null
ask used
[ "$sum" = "$($b md5sum < /tmp/kept)" ]
if $b dmesg | $b grep -E 'Oops|BUG|balloon.*(fail|bad|error)'; then exit 1; fi
say complete
