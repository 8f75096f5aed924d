# Debian's own tools on a root file system that our daemon serves.
. /common.sh
say "root $(stat -f -c %T /) debian $(cat /etc/debian_version)"
doing verify the tree
sha256sum -c --quiet /manifest
doing write and verify
dd if=/dev/urandom of=/tmp/source bs=1M count=16 2>/dev/null
(
    n=0
    while [ ! -e /tmp/stop ]; do
        f=/var/k$((n % 4))
        dd if=/tmp/source of=$f bs=64k conv=fsync 2>/dev/null
        dd if=$f bs=64k iflag=direct 2>/dev/null | cmp - /tmp/source
        n=$((n + 1))
    done
) &
ask killing
touch /tmp/stop
wait $!
forget_cache
for f in /var/k*; do cmp /tmp/source "$f"; done
if [ -x /usr/bin/fio ]; then
    doing fio with verify
    fio --name=verify --filename=/var/fio --size=8M --rw=randwrite --bs=4k --iodepth=16 \
        --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 \
        --minimal > /tmp/fio.out
    say fio verified
fi
sha256sum -c --quiet /manifest
sync
doing read-only remount
mount -o remount,ro /
no_disk_errors
say complete
