# For benches over a wire of DPDK's between two processes: the devices at its ends.
#
#   virtio  net_vhost <-> net_virtio_user, which carry checksums and trains        memif  net_memif <-> net_memif, frames only
# shellcheck shell=bash

# Whether nty can be built with DPDK, and a peer of DPDK's own be run.
has_dpdk() { command -v dpdk-testpmd >/dev/null && pkg-config --exists libdpdk 2>/dev/null; }
dpdk_packages="dpdk libdpdk-dev libclang-dev clang pkg-config"

# EAL's options: two processes hold 100 MB or so each.
eal=
[ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null || echo 0)" -ge 256 ] || eal=" --no-huge -m 512 --iova-mode=va"

# new_wire: each wire is a socket of its own, which the near end makes and so is started first.
wires=0 wire=
new_wire() { wires=$((wires + 1)) wire=$work/wire$wires; }
near_vdev() {
    case $1 in
        virtio*) echo "net_vhost0,iface=$wire,tso=1" ;;
        memif*) echo "net_memif0,role=server,socket=$wire,socket-abstract=no" ;;
        *) die "no device is called $1" ;;
    esac
}
near_dpdk() { echo "dpdk:$(near_vdev "$1")$eal"; }
far_dpdk() {
    case $1 in
        virtio*) echo "dpdk:net_virtio_user0,path=$wire,mrg_rxbuf=1$eal" ;;
        *) echo "dpdk:net_memif0,role=client,socket=$wire,socket-abstract=no$eal" ;;
    esac
}
