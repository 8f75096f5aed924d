# A guest whose disk and network are busy all its life, whatever the host does to the machine.
. /common.sh
disk=/dev/vda
disk_appears $disk
given() { $b tr ' ' '\n' < /proc/cmdline | $b sed -n "s/^$1=//p"; }
# Load on a part of the disk, under a name: first block, blocks of each worker, workers.
load() { disk-load run $disk "$1" "$2" "$3" "$4" "/tmp/stop-$1" & }
unload() { $b touch "/tmp/stop-$1"; }
memory() { $b awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
# Echoes, one after the other; each answer is told.
echoes() {
    n=0
    while :; do
        if $b ping -c 1 -W 1 "$1" > /dev/null; then
            n=$((n + 1))
            say "net echoes=$n"
        fi
        $b sleep 0.1
    done
}
if [ -n "$(given own)" ]; then
    doing network
    $b ip link set lo up
    $b ip link set eth0 up
    $b ip addr add "$(given own)" dev eth0
    echoes "$(given peer)" &
    pings=$!
fi
doing load
load main 0 512 6
main=$!
say living
before=$(memory)
while read -r word; do
    doing "$word"
    case "$word" in
    plugged)
        n=0
        until [ "$(memory)" -gt "$((before + 64))" ]; do
            n=$((n + 1))
            [ $n -lt 300 ] || { say "failed: $(memory) MiB, as before"; exit 1; }
            $b sleep 0.1
        done
        say "memory $before became $(memory)"
        # What starts now has its pages in the new memory.
        load extra 3072 512 2
        extra=$!
        ;;
    unload)
        unload extra
        wait $extra
        $b rm -f /tmp/stop-extra
        say unloaded
        ;;
    finish)
        unload main
        wait $main
        break
        ;;
    *)
        say "failed: what is $word?"
        exit 1
        ;;
    esac
done
[ -z "$(given own)" ] || kill $pings
doing compare
echo 3 > /proc/sys/vm/drop_caches
disk-load digest $disk
no_disk_errors
say complete
