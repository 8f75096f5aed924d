# The inner guest (L2): Debian on a monitor, root, data and network served by our daemons.
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
given() { $b tr ' ' '\n' < /proc/cmdline | $b sed -n "s/^$1=//p"; }
if [ -n "$(given peer)" ]; then
    doing fetch and serve
    peer=http://$(given peer):8080
    $b ip link set lo up
    $b ip addr add "$(given own)/24" dev eth0
    $b ip link set eth0 up
    n=0
    until $b ping -c 1 -W 1 "$(given peer)" > /dev/null; do
        n=$((n + 1))
        [ $n -lt 100 ] || { say "failed: no echo"; exit 1; }
        sleep 0.1
    done
    [ "$($b wget -q -O - "$peer/data" | sha256sum)" = "$($b wget -q -O - "$peer/sum")" ]
    sha256sum < /tmp/source > /tmp/sum
    $b httpd -p 8080 -h /tmp
    say serving
    n=0
    until $b wget -q -O /dev/null "$peer/fetched" 2>/dev/null; do
        n=$((n + 1))
        [ $n -lt 300 ] || { say "failed: nobody fetched it"; exit 1; }
        sleep 0.2
    done
fi
doing trim and unmount
rm /mnt/b
fstrim /mnt
umount /mnt
mount -o remount,ro /
$b grep -E 'virtio|LOC' /proc/interrupts
no_disk_errors
say inner complete
