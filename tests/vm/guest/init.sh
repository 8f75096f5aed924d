#!/m/busybox sh
# First process of a test guest: mounts, loads modules in order, hands over to /scenario.
b=/m/busybox
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t devtmpfs none /dev
$b mount -t tmpfs none /tmp
$b mkdir -p /dev/shm
$b mount -t tmpfs none /dev/shm
for module in $($b cat /m/order); do $b insmod /m/"$module".ko; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "@@ up $($b cut -d' ' -f1 /proc/uptime) $($b uname -r)"
[ -x /usr/bin/dash ] && exec /usr/bin/dash /scenario
exec $b sh /scenario
