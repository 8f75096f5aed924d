# A guest that tries everything with its peer. `steps=` names what, besides echoes and a file.
address "$(given own)"
peer=$(given peer)
steps=$(given steps)
wants() { case ",$steps," in *",$1,"*) true ;; *) false ;; esac }
[ -z "$(given mtu)" ] || ip link set $nic mtu "$(given mtu)"
serves 16
features=$(cat /sys/class/net/$nic/device/features)
say "nic $(cat /sys/class/net/$nic/address) mtu $(cat /sys/class/net/$nic/mtu) queues $(ls -d /sys/class/net/$nic/queues/rx-* | wc -l) features $features"
ask ready

doing echoes
until_true reaches "$peer"
for size in 0 56 1472 8972; do
    [ $size -le "$(cat /sys/class/net/$nic/mtu)" ] && pings "$peer" $size
done

doing a file
fetches "$peer"
ask fetched

if wants bulk; then
    doing bulk
    bulk out "$peer"
    bulk in "$peer" -R
    bulk "both ways" "$peer" --bidir
    bulk "datagrams out" "$peer" -u -b 30M -l 1400
    bulk "datagrams in" "$peer" -u -b 30M -l 1400 -R
fi

if wants offloads; then
    doing without offloads
    offloads off
    pings "$peer" 1472
    fetches "$peer"
    bulk "out without offloads" "$peer"
    bulk "in without offloads" "$peer" -R
    ask plain
    offloads on
    fetches "$peer"
fi

if wants queues; then
    doing more queues
    queues=$(ls -d /sys/class/net/$nic/queues/rx-* | wc -l)
    [ "$queues" -ge 2 ]
    ethtool -L $nic combined 1
    bulk "out by 1 queue" "$peer" -P 4
    ethtool -L $nic combined "$queues"
    bulk "out by $queues queues" "$peer" -P 8
    bulk "in by $queues queues" "$peer" -P 8 -R
    ethtool -S $nic > /tmp/counters
    say "queues $($b awk '/[rt]x_queue_[0-9]+_packets/ { printf "%s%s ", $1, $2 }' /tmp/counters)"
    used=$($b awk '/tx_queue_[0-9]+_packets/ && $2 > 50 { n++ } END { print n + 0 }' /tmp/counters)
    [ "$used" = "$queues" ]
    fetches "$peer"
fi

if wants link; then
    doing the cable
    ask "cable out"
    until_true carrier_is 0
    if reaches "$peer"; then
        say "failed: an answer without a cable"
        exit 1
    fi
    ask "cable in"
    until_true carrier_is 1
    until_true reaches "$peer"
    fetches "$peer"
fi

if wants kill; then
    doing traffic while the daemon dies
    (
        n=0
        while [ ! -e /tmp/stop ]; do
            fetches "$peer"
            n=$((n + 1))
        done
        echo $n > /tmp/rounds
    ) &
    ask killing
    until_true reaches "$peer"
    touch /tmp/stop
    wait $!
    say "survived $(cat /tmp/rounds) verified files"
    bulk "out afterwards" "$peer"
    bulk "in afterwards" "$peer" -R
    ask survived
fi

no_network_errors
say complete
