# Goes over to the Debian tree on the disk.
. /common.sh
disk_appears /dev/vda
step="switch to the root file system"
$b mount -t ext4 -o rw /dev/vda /mnt
$b mkdir -p /mnt/m
$b cp /m/busybox /mnt/m/busybox
$b cp /common.sh /mnt/common.sh
for f in proc sys dev tmp; do $b mount --move /$f /mnt/$f; done
trap - EXIT
exec $b switch_root /mnt /usr/bin/dash /scenario
