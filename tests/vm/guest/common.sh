# Words of every scenario. A line `@@ word ...` is for the test on the host.
set -eu
b=/m/busybox
say() { echo "@@ $*"; }
# Says something and waits for the host's answer.
ask() {
    say "$@"
    read -r answer
}
ended() {
    code=$?
    [ $code = 0 ] || { say "failed with $code in step: $step"; $b dmesg | $b tail -30; }
    $b sync
    $b poweroff -f
}
step=start
trap ended EXIT
# Names what is being done, for the log and for failures.
doing() {
    step="$*"
    echo "-- $step"
}
# A disk needs a moment to be found.
disk_appears() {
    n=0
    while [ ! -b "$1" ]; do
        n=$((n + 1))
        [ $n -lt 100 ] || { say "failed: no $1"; exit 1; }
        $b sleep 0.1
    done
}
forget_cache() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}
no_disk_errors() {
    if $b dmesg | $b grep -E 'I/O error|EXT4-fs error|blocked for more than'; then
        step="kernel log"
        exit 1
    fi
}
