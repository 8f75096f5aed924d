# Words of the network scenarios. Parameters come on the kernel's command line (`peer=10.77.0.1`).
. /common.sh
nic=eth0
given() { $b tr ' ' '\n' < /proc/cmdline | $b sed -n "s/^$1=//p"; }
# Waits up to two minutes until a command succeeds.
until_true() {
    n=0
    until "$@"; do
        n=$((n + 1))
        [ $n -lt 600 ] || { say "failed: not within two minutes: $*"; exit 1; }
        $b sleep 0.2
    done
}
carrier_is() { [ "$(cat /sys/class/net/$nic/carrier)" = "$1" ]; }
# Gives the card its address, by hand or by DHCP.
address() {
    until_true [ -e /sys/class/net/$nic ]
    ip link set lo up
    ip link set $nic up
    until_true carrier_is 1
    if [ "$1" != dhcp ]; then
        ip addr add "$1" dev $nic
        return
    fi
    cat > /tmp/dhcp << 'SCRIPT'
#!/m/busybox sh
case $1 in bound|renew)
    /usr/bin/ip addr replace $ip/$mask dev $interface
    for r in $router; do /usr/bin/ip route replace default via $r dev $interface; done
    echo "lease $ip/$mask router $router dns $dns mtu $mtu";;
esac
SCRIPT
    chmod 755 /tmp/dhcp
    $b udhcpc -i $nic -q -n -t 20 -s /tmp/dhcp > /tmp/lease 2>&1 || { cat /tmp/lease; exit 1; }
    say "$(grep ^lease /tmp/lease)"
}
reaches() { $b ping -c 1 -W 1 "$1" > /dev/null; }
# Echoes of one size, none lost.
pings() {
    $b ping -c 3 -s "$2" "$1" > /tmp/ping || { cat /tmp/ping; exit 1; }
    grep -q ' 0% packet loss' /tmp/ping
    say "ping $2 bytes $(grep round-trip /tmp/ping || true)"
}
# Bulk by iperf3: a name for the log, the peer, more words for iperf3.
bulk() {
    what=$1
    host=$2
    shift 2
    iperf3 --connect-timeout 20000 -c "$host" -t 3 "$@" > /tmp/iperf 2>&1 || { cat /tmp/iperf; exit 1; }
    say "bulk $what: $($b awk '/receiver/ { r = $(NF - 2) " " $(NF - 1) } END { print r }' /tmp/iperf)"
}
# What the others may fetch: a file with its checksum, and an iperf3 server.
serves() {
    mkdir -p /srv
    dd if=/dev/urandom of=/srv/data bs=1M count="$1" 2> /dev/null
    sha256sum < /srv/data > /srv/sum
    $b httpd -p 8080 -h /srv
    iperf3 -s -D
}
# Fetches the peer's file and compares every byte by checksum.
fetches() {
    timeout 120 $b wget -q -O /tmp/fetched "http://$1:8080/data"
    [ "$(sha256sum < /tmp/fetched)" = "$(timeout 120 $b wget -q -O - "http://$1:8080/sum")" ]
}
offloads() {
    for feature in tx sg tso gso gro; do ethtool -K $nic $feature "$1" || true; done
    say "offloads $1: $(ethtool -k $nic | grep -E '^(rx-checksumming|tx-checksumming|scatter-gather|tcp-segmentation-offload|generic-receive-offload):' | tr -s '\n' ' ')"
}
no_network_errors() {
    if $b dmesg | $b grep -E 'NETDEV WATCHDOG|virtio_net.*(error|bad|unexpected)|hw csum failure|rx_queue.*stall'; then
        step="kernel log"
        exit 1
    fi
}
