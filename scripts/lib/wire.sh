# For benches over a wire of their own: a veth pair between two namespaces, a core for either end. All ends with the script.
#
#   srv in the server's namespace, where the script is process 1        cli in the client's, where client() runs commands
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/base.sh"

ours=10.79.0.2 theirs=10.79.0.1 # on one network of 16 bits
server_cpu=0 client_cpu=1

# check_machine: whether this can be done here at all.
check_machine() {
    [ "$(id -u)" = 0 ] || die "network namespaces, packet sockets and AF_XDP: run as root"
    [ "$(nproc)" -ge 2 ] || die "server and client need a core each: this machine has one"
}

# inside SCRIPT: runs SCRIPT --inside as process 1 of namespaces of its own, so that whatever it starts ends with it, and it with us, even
# when we are killed. $work is a directory for the time, $nty the command to measure; both exist inside.
inside() {
    WORK=$work NTY=$nty setpriv --pdeathsig KILL unshare --net --pid --fork --kill-child --mount --mount-proc "$1" --inside &
    local pid=$!
    # shellcheck disable=SC2064 # it is this process that is meant
    trap "kill -KILL $pid; exit 130" INT TERM HUP
    wait "$pid"
}

# In the client's namespace, on its core.
client() { nsenter --net="$client_net" taskset -c "$client_cpu" "$@"; }

# make_wire [QUEUES]: the client's namespace and the pair.
make_wire() {
    local queues=(numtxqueues "${1:-1}" numrxqueues "${1:-1}")
    unshare --net sleep infinity &
    local pid=$!
    client_net=/proc/$pid/ns/net
    for _ in $(seq 100); do [ "$(readlink "$client_net")" = "$(readlink /proc/self/ns/net)" ] || break; sleep 0.02; done
    ip link set lo up
    ip link add srv "${queues[@]}" type veth peer name cli "${queues[@]}" netns "$pid"
    sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    client sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    ip link set srv up
    client ip link set cli up
}

# offloads on|off: AF_XDP sees what the kernel leaves undone between namespaces, so there are no segments of 64 KB with it.
offloads() {
    ethtool -K srv gro "$1" gso "$1" tso "$1" >/dev/null 2>&1 || :
    client ethtool -K cli gro "$1" gso "$1" tso "$1" >/dev/null 2>&1 || :
}

# A client on kernel sockets has an address on the wire; one on a stack of its own must not.
kernel_client() { client ip addr replace "$theirs/16" dev cli; }
stack_client() { client ip addr flush dev cli; }

# background COMMAND...: starts it as $server, on its core; what it says is in $work/log.
background() {
    taskset -c "$server_cpu" "$@" >"$work/log" 2>&1 </dev/null &
    server=$!
}

# await_ready NAME TEST...: until TEST succeeds, or the server has ended or said nothing for 10 s.
await_ready() {
    local name=$1
    shift
    for _ in $(seq 200); do
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; die "$name did not start"; }
        "$@" && return
        sleep 0.05
    done
    cat "$work/log" >&2
    die "$name does not answer"
}

# Ends the server and waits for it.
end_server() {
    kill "$server" 2>/dev/null || :
    wait "$server" 2>/dev/null || :
}

# Nanoseconds on a CPU of each thread of the server.
server_threads() { grep -H . "/proc/$server"/task/*/schedstat; }
# Those of the whole machine, in ticks turned into nanoseconds: everything but idle, waiting for disks, and what runs nicely.
machine_nanos() { awk -v hz="$(getconf CLK_TCK)" '/^cpu / { printf "%.0f", ($2 + $4 + $7 + $8) * 1e9 / hz; exit }' /proc/stat; }

# start_clock ... stop_clock: $cpu nanoseconds of the server's threads, $all of the machine, in $seconds. Of threads that end in between,
# as DPDK's do that help it to start, nothing is counted.
start_clock() {
    server_threads >"$work/threads"
    all=$(machine_nanos) began=$EPOCHREALTIME
}
stop_clock() {
    seconds=$(awk -v to="$EPOCHREALTIME" -v from="$began" 'BEGIN { printf "%.6f", to - from }')
    cpu=$(server_threads | awk -F'[: ]' 'NR == FNR { before[$1] = $2; next } { n += $2 - before[$1] } END { printf "%.0f", n }' "$work/threads" -)
    all=$(($(machine_nanos) - all))
}
