# The inner guest (L2): Debian on our monitor, root and data served by our daemons.
. /common.sh
say "root $(stat -f -c %T /) debian $(cat /etc/debian_version) cpus $(nproc)"
$b dmesg | $b grep -E 'virtio_blk|ACPI: PM|clocksource: Switched' || true
doing verify the tree
sha256sum -c --quiet /manifest
doing mkfs and mount
disk_appears /dev/vdb
mkfs.ext4 -q -F /dev/vdb
mount -t ext4 /dev/vdb /mnt
doing write and verify
dd if=/dev/urandom of=/tmp/source bs=1M count=6 2>/dev/null
for f in /mnt/a /mnt/b /var/a /var/b; do cp /tmp/source $f & done
wait
forget_cache
for f in /mnt/a /mnt/b /var/a /var/b; do cmp /tmp/source $f; done
dd if=/mnt/a iflag=direct bs=64k 2>/dev/null | cmp - /tmp/source
rm /mnt/b
fstrim /mnt
umount /mnt
mount -o remount,ro /
$b grep -E 'virtio|LOC' /proc/interrupts
no_disk_errors
say inner complete
