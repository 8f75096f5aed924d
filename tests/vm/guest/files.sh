# A data disk from mkfs to a clean unmount: copies, trim, growth, a daemon that dies under load.
. /common.sh
disk=/dev/vda
disk_appears $disk
say "queues $(ls /sys/block/vda/mq | wc -l) size $(blockdev --getsize64 $disk)"

doing mkfs.ext4
mkfs.ext4 -q -F $disk
mount -t ext4 $disk /mnt

doing checksummed copies
dd if=/dev/urandom of=/tmp/source bs=1M count=24 2>/dev/null
sum=$(sha256sum < /tmp/source)
for n in 1 2 3 4; do cp /tmp/source /mnt/copy$n & done
wait
forget_cache
for n in 1 2 3 4; do [ "$(sha256sum < /mnt/copy$n)" = "$sum" ]; done
ask written

doing fstrim
rm /mnt/copy2 /mnt/copy3 /mnt/copy4
sync
fstrim -v /mnt
ask trimmed

doing growth while mounted
before=$(blockdev --getsize64 $disk)
ask grow
n=0
while [ "$(blockdev --getsize64 $disk)" = "$before" ]; do
    n=$((n + 1))
    [ $n -lt 300 ] || { say "failed: the disk did not grow"; exit 1; }
    sleep 0.1
done
resize2fs $disk
dd if=/dev/zero of=/mnt/filler bs=1M count=$(((before >> 20) + 8)) 2>/dev/null
sync
rm /mnt/filler
say "grown to $(blockdev --getsize64 $disk)"

doing writes and direct reads while the daemon dies
(
    n=0
    while [ ! -e /tmp/stop ]; do
        f=/mnt/k$((n % 6))
        dd if=/tmp/source of=$f bs=64k conv=fsync 2>/dev/null
        dd if=$f bs=64k iflag=direct 2>/dev/null | cmp - /tmp/source
        n=$((n + 1))
    done
    echo $n > /tmp/rounds
) &
ask killing
touch /tmp/stop
wait $!
forget_cache
for f in /mnt/k* /mnt/copy1; do [ "$(sha256sum < "$f")" = "$sum" ]; done
say "survived $(cat /tmp/rounds) verified copies"

doing check
umount /mnt
e2fsck -fn $disk
no_disk_errors
say complete
