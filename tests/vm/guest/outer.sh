# The outer guest (L1): starts our daemon and our monitor, as an operator would.
. /common.sh
[ -c /dev/kvm ] || { say "failed: no /dev/kvm in the outer guest"; exit 1; }
. /settings
doing start the daemons
paravane-blockd --socket-path /tmp/root.sock --path /disks/root.img --num-queues "$QUEUES" > /tmp/root.log 2>&1 &
root=$!
paravane-blockd --socket-path /tmp/data.sock --path /disks/data.img > /tmp/data.log 2>&1 &
data=$!
n=0
until [ -S /tmp/root.sock ] && [ -S /tmp/data.sock ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || { cat /tmp/root.log /tmp/data.log; say "failed: no socket"; exit 1; }
    sleep 0.1
done
doing run the inner guest
{
    paravane run --kernel /vmlinux --initrd /inner.cpio --memory 256M --cpus "$CPUS" \
        --disk "socket=/tmp/root.sock,queues=$QUEUES" --disk socket=/tmp/data.sock \
        --cmdline "$WORDS" < /dev/null 2>&1 && echo 0 > /tmp/code || echo $? > /tmp/code
} | while IFS= read -r line; do echo "inner: $line"; done
say "monitor ended with $(cat /tmp/code)"
cat /tmp/root.log /tmp/data.log
doing stop the daemons
kill -TERM $root $data
wait $root
wait $data
doing check the images
e2fsck -fn /disks/root.img
e2fsck -fn /disks/data.img
say outer complete
