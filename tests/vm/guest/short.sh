# A short life of a data disk, for ring formats: queues, file system, verified copies, trim.
. /common.sh
disk=/dev/vda
disk_appears $disk
say "queues $(ls /sys/block/vda/mq | wc -l) features $(cat /sys/block/vda/device/features)"
doing mkfs.ext4
mkfs.ext4 -q -F $disk
mount -t ext4 $disk /mnt
doing checksummed copies
dd if=/dev/urandom of=/tmp/source bs=1M count=16 2>/dev/null
(
    n=0
    while [ ! -e /tmp/stop ]; do
        dd if=/tmp/source of=/mnt/k$((n % 4)) bs=64k conv=fsync 2>/dev/null
        dd if=/mnt/k$((n % 4)) bs=64k iflag=direct 2>/dev/null | cmp - /tmp/source
        n=$((n + 1))
    done
) &
ask killing
touch /tmp/stop
wait $!
forget_cache
for f in /mnt/k*; do cmp /tmp/source "$f"; done
fstrim -v /mnt
umount /mnt
e2fsck -fn $disk
no_disk_errors
say complete
