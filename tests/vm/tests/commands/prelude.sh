# Around the commands of the documents: a private /run, /tmp and /var/lib, and words to wait and to look with.
set -eu
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t tmpfs none /var/lib
mkdir -p /run/paravane /var/lib/images
export USER=root
unset XDG_RUNTIME_DIR PARAVANE_RUNTIME_DIR PARAVANE_BIN_DIR
programs=
# Patience: 60 s in steps.
until_true() {
    n=0
    until "$@"; do
        n=$((n + 1))
        [ $n -lt 600 ] || { echo "@@ not within a minute: $*"; exit 1; }
        sleep 0.1
    done
}
started() { programs="$programs $1"; }
ready() { for socket in "$@"; do until_true [ -S "$socket" ]; done; }
a_vm_runs() { paravane status --json | grep -q '"pid"'; }
vm_runs() { until_true a_vm_runs; }
all_run() { for program in $programs; do kill -0 "$program" || { echo "@@ a program has ended"; exit 1; }; done; }
answered() { said > answer; grep -q '"ok"' answer && ! grep -q '"error"' answer; }
all_ended() { [ "$(ls qemu-*.status 2> /dev/null | wc -l)" = "$1" ]; }
guests_end() {
    # A guest without hardware help takes its time; the test has the limit.
    until all_ended "$1"; do sleep 0.2; done
    for status in qemu-*.status; do [ "$(cat "$status")" = 0 ]; done
    for console in console-*.log; do grep -q '^@@ complete' "$console" || { tail -20 "$console"; exit 1; }; done
}
# A VM that is told to stop takes its daemons along.
vm_ends() { paravane ctl "$1" stop > /dev/null; }
end_programs() {
    for program in $programs; do kill "$program" 2> /dev/null || true; done
    for program in $programs; do wait "$program" || true; done
    programs=
    rm -f console-*.log qemu-*.status
}
