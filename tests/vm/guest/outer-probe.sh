# The outer guest (L1): the probe guest on our monitor, on SVM.
. /common.sh
[ -c /dev/kvm ] || { say "failed: no /dev/kvm in the outer guest"; exit 1; }
doing start the daemon
paravane-blockd --socket-path /tmp/probe.sock --path /disks/probe.img --num-queues 2 > /tmp/probe.log 2>&1 &
daemon=$!
n=0
until [ -S /tmp/probe.sock ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || { cat /tmp/probe.log; say "failed: no socket"; exit 1; }
    sleep 0.1
done
doing run the probe guest
{
    paravane run --kernel /probe-guest --memory 128M --debug-exit \
        --disk socket=/tmp/probe.sock,queues=2,packed=on \
        --cmdline "size=4M requests=2000 queues=2 probe verify packed=0 ; verify packed=1" \
        < /dev/null 2>&1 && echo 0 > /tmp/code || echo $? > /tmp/code
} | while IFS= read -r line; do echo "inner: $line"; done
say "monitor ended with $(cat /tmp/code)"
doing stop the daemon
kill -TERM $daemon
wait $daemon
say outer complete
