# From what scripts/bench dpdk printed, and lines "device load rate units device-ns machine-ns" (a unit: a frame, or a bit), to the table
# and the goals of scripts/bench devices.

# Millions a second between two threads of one process, by driver and contender.
/^[a-z]/ && !/^between two cores/ && NF != 6 { driver = "" }
/^between two cores: / { driver = $4; sub(/,$/, "", driver) }
/million\/s/ {
    split($0, parts, /  +/)
    contenders[++contender] = driver SUBSEP parts[2]
    ring[driver, parts[2]] = parts[3] + 0
    next
}
NF == 6 {
    key = $1 SUBSEP $2
    rate[key] = most(rate[key], $3)
    cpu[key] = cpu[key] ($5 / $4) " "
    machine[key] = machine[key] ($6 / $4) " "
}

# One cell: the rate, and CPU time per frame.
function frames(device, load) {
    if (rate[device, load] == "") return sprintf("%24s", "-")
    return sprintf("%9.3f %6.0f /%6.0f", rate[device, load] / 1e6, median(cpu[device, load]), median(machine[device, load]))
}
# Gb/s, and those of a core of the device's.
function bulk(device, load) {
    if (rate[device, load] == "") return sprintf("%18s", "-")
    return sprintf("%9.2f /%7.2f", rate[device, load] / 1e9, per_core(device, load))
}
function per_core(device, load) { return cpu[device, load] == "" ? "" : 1 / median(cpu[device, load]) }

# Two ways to reach it: the better one counts.
function bulk_goal(load,    core, ratio, best) {
    core = per_core("tap", load)
    ratio = over(rate["tap", load], rate["kernel", load])
    if (core != "") best = most(core / 15, ratio == "" ? 0 : ratio / 0.7)
    goal(sprintf("TAP, bulk TCP %s: %s of 15 Gb/s per core, or %s of 0.7 of the kernel's: at least 1", load, cell(core, "%.1f"), cell(ratio, "%.2f")), best, 1, 0)
}

END {
    printf "%d rounds of %d s each: frames of 64 bytes a second in millions, CPU ns per frame of the process / of the whole machine; Gb/s of TCP / per core of the process\n", rounds, secs
    printf "%-15s %24s %24s %24s %18s %18s\n", "", "received", "sent", "echoed", "TCP in", "TCP out"
    n = split(devices, names, " ")
    for (i = 1; i <= n; i++) {
        if (names[i] == "ring") continue
        printf "%-15s %s %s %s %s %s\n", names[i], frames(names[i], "rx"), frames(names[i], "tx"), frames(names[i], "echo"), bulk(names[i], "in"), bulk(names[i], "out")
    }
    for (i = 1; i <= contender; i++) {
        split(contenders[i], of, SUBSEP)
        printf "%-65s %9.3f\n", of[1] ", one process: " of[2], ring[contenders[i]]
    }
    print "\ngoals, in this run"
    split("net_ring net_virtio_user", drivers, " ")
    split("by a responder,through a socket", ways, ",")
    for (d = 1; d <= 2; d++) for (w = 1; w <= 2; w++) {
        goal(drivers[d] ", one process, UDP echo " ways[w] ": at least 0.8 of swapping stations",
            over(ring[drivers[d], "echo " ways[w]], ring[drivers[d], "plain forwarding"]), 0.8, 0)
    }
    goal("virtio_user, two processes, UDP echo: at least 0.8 of testpmd's macswap", over(rate["virtio", "echo"], rate["virtio-testpmd", "echo"]), 0.8, 0)
    goal("memif, two processes, UDP echo: at least 0.8 of testpmd's macswap", over(rate["memif", "echo"], rate["memif-testpmd", "echo"]), 0.8, 0)
    bulk_goal("in")
    bulk_goal("out")
    goal("AF_XDP on veth, UDP echo per CPU second of the process: at least 1.5 of the kernel's", over(median(cpu["kernel", "echo"]), median(cpu["xdp", "echo"])), 1.5, 0)
}
