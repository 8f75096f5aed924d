# The outer guest (L1): Debian's own balloon driver on our monitor, with our balloon daemon.
. /common.sh
[ -c /dev/kvm ] || { say "failed: no /dev/kvm in the outer guest"; exit 1; }
. /settings
# MiB that the kernel has for the inner guest's memory.
memory() {
    for process in $($b pidof paravane); do
        for file in /proc/"$process"/fd/*; do
            case "$(readlink "$file")" in
            /memfd:*) echo $(($(stat -L -c %b "$file") / 2048)) ;;
            esac
        done
    done | sort -n | tail -n 1
}
target() { paravane ctl /tmp/control set device1 "target=$1"; }
doing start the daemon
paravane-balloond --socket-path /tmp/balloon.sock --control-socket /tmp/control --policy manual > /tmp/balloon.log 2>&1 &
daemon=$!
n=0
until [ -S /tmp/balloon.sock ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || { cat /tmp/balloon.log; say "failed: no socket"; exit 1; }
    sleep 0.1
done
doing run the inner guest
{
    paravane run --kernel /vmlinux --initrd /inner.cpio --memory 320M \
        --balloon socket=/tmp/balloon.sock --cmdline "$WORDS" < /dev/null 2>&1 &&
        echo 0 > /tmp/code || echo $? > /tmp/code
} | while IFS= read -r line; do
    echo "inner: $line"
    # The guest waits after each of these until its balloon changes: this computer is slow.
    case "$line" in
    "@@ filled"*)
        say "memory filled $(memory)"
        target 16M
        ;;
    "@@ emptied"*)
        say "memory reported $(memory)"
        target 128M
        ;;
    "@@ inflated"*)
        say "memory inflated $(memory)"
        target 0
        ;;
    "@@ refilled"*)
        say "memory refilled $(memory)"
        target 16M
        ;;
    esac
done
say "monitor ended with $(cat /tmp/code)"
cat /tmp/balloon.log
doing stop the daemon
kill -TERM $daemon
wait $daemon
say outer complete
