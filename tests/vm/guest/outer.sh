# The outer guest (L1): starts our daemons and a monitor, ours or another's, as an operator would.
. /common.sh
[ -c /dev/kvm ] || { say "failed: no /dev/kvm in the outer guest"; exit 1; }
. /settings
doing make a network
$b tunctl -t tap0 > /dev/null
$b ip link set lo up
$b ip addr add "$HOST/24" dev tap0
$b ip link set tap0 up
doing start the daemons
paravane-blockd --socket-path /tmp/root.sock --path /disks/root.img --num-queues "$QUEUES" > /tmp/root.log 2>&1 &
root=$!
paravane-blockd --socket-path /tmp/data.sock --path /disks/data.img > /tmp/data.log 2>&1 &
data=$!
paravane-netd --socket-path /tmp/net.sock --link tap:tap0 > /tmp/net.log 2>&1 &
net=$!
n=0
until [ -S /tmp/root.sock ] && [ -S /tmp/data.sock ] && [ -S /tmp/net.sock ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || { cat /tmp/root.log /tmp/data.log /tmp/net.log; say "failed: no socket"; exit 1; }
    sleep 0.1
done
doing serve a file
mkdir /tmp/srv
dd if=/dev/urandom of=/tmp/srv/data bs=1M count=4 2>/dev/null
sha256sum < /tmp/srv/data > /tmp/srv/sum
$b httpd -p 8080 -h /tmp/srv
doing run the inner guest
terminal=/dev/null
case "$MONITOR" in
paravane)
    set -- paravane run --kernel /vmlinux --initrd /inner.cpio --memory 256M --cpus "$CPUS" \
        --disk "socket=/tmp/root.sock,queues=$QUEUES" --disk socket=/tmp/data.sock --net socket=/tmp/net.sock
    WORDS="$WORDS own=$GUEST peer=$HOST"
    ;;
alioth)
    # It wants a terminal. Without a network card: two of its threads use that card's connection at once, and each
    # takes the other's answers, when a guest reads the card's state just after it started it (0.12.0).
    terminal=/dev/ttyS0
    set -- alioth boot --pvh /vmlinux --initramfs /inner.cpio --memory size=256M,backend=memfd --cpu "count=$CPUS" \
        --blk vu,socket=/tmp/root.sock --blk vu,socket=/tmp/data.sock
    ;;
esac
{
    "$@" --cmdline "$WORDS" < $terminal 2>&1 && echo 0 > /tmp/code || echo $? > /tmp/code
} | while IFS= read -r line; do
    echo "inner: $line"
    case "$line" in
    "@@ serving"*)
        # The guest waits for the word that its file came as it was.
        [ "$($b wget -q -O - "http://$GUEST:8080/source" | sha256sum)" = "$($b wget -q -O - "http://$GUEST:8080/sum")" ]
        touch /tmp/srv/fetched
        ;;
    esac
done
say "monitor ended with $(cat /tmp/code)"
cat /tmp/root.log /tmp/data.log /tmp/net.log
doing stop the daemons
kill -TERM $root $data $net
wait $root
wait $data
wait $net
doing check the images
e2fsck -fn /disks/root.img
e2fsck -fn /disks/data.img
say outer complete
