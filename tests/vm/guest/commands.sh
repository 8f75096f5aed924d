# The guest of the commands in the documents: uses each device that it finds, and ends well only if all of them work.
. /common.sh
found=0
for n in 1 2 3 4 5 6 7 8 9 10; do
    if [ -b /dev/vda ] || [ -e /sys/class/net/eth0 ] || [ -e /sys/bus/virtio/drivers/virtio_balloon/virtio0 ]; then break; fi
    $b sleep 0.2
done
if [ -b /dev/vda ]; then
    doing disk
    $b dd if=/dev/urandom of=/tmp/source bs=1M count=4 2> /dev/null
    $b dd if=/tmp/source of=/dev/vda bs=64k conv=fsync 2> /dev/null
    echo 3 > /proc/sys/vm/drop_caches
    $b dd if=/dev/vda bs=64k count=64 2> /dev/null | $b cmp - /tmp/source
    no_disk_errors
    found=$((found + 1))
    say "disk queues $($b ls /sys/block/vda/mq | $b wc -l)"
fi
until_true() {
    n=0
    until "$@"; do
        n=$((n + 1))
        [ $n -lt 600 ] || { say "failed: not within two minutes: $*"; exit 1; }
        $b sleep 0.2
    done
}
# Two guests that know each other by their addresses say a word to each other, both ways.
meet() {
    own=$1
    peer=$2
    $b ifconfig eth0 192.0.2."$own" netmask 255.255.255.0 up
    $b nc -l -p 7 > /tmp/heard < /dev/null &
    listener=$!
    until_true tell "$peer"
    wait $listener
    [ "$($b cat /tmp/heard)" = "from $peer" ]
    say "met $peer"
}
tell() { echo "from $own" | $b nc -w 5 192.0.2."$1" 7 2> /dev/null; }
if [ -e /sys/class/net/eth0 ]; then
    doing network
    case $($b cat /sys/class/net/eth0/address) in
        52:54:00:00:00:01) meet 1 2 ;;
        52:54:00:00:00:02) meet 2 1 ;;
        *)
            $b ifconfig eth0 up
            printf '#!/m/busybox sh\n[ "$1" != bound ] || echo "lease $ip router $router"\n' > /tmp/dhcp
            $b chmod 755 /tmp/dhcp
            $b udhcpc -i eth0 -q -n -t 20 -s /tmp/dhcp > /tmp/lease 2>&1 || { $b cat /tmp/lease; exit 1; }
            say "$($b grep ^lease /tmp/lease)"
            ;;
    esac
    found=$((found + 1))
fi
if [ -e /sys/bus/virtio/drivers/virtio_balloon/virtio0 ]; then
    found=$((found + 1))
    say balloon
fi
[ $found -gt 0 ] || { say "failed: no device"; exit 1; }
say complete
