# From lines "device shards requests seconds failures futexes lock-percent connections-by-shard" to the table and the goals of scripts/bench shards.
NF == 8 {
    key = $1 SUBSEP $2
    rate[key] = most(rate[key], $3 / $4)
    failures[key] += $5
    futexes[key] += $6
    locks[key] = most(locks[key], $7)
    spread[key] = $8
    if ($2 == 2) {
        all_failures += $5
        all_futexes += $6
        all_locks = most(all_locks, $7)
        split($8, by, "/")
        fewest = least(fewest, (by[1] < by[2] ? by[1] : by[2]) / n)
    }
}
END {
    printf "%d rounds of %d s each, wrk with %d connections: requests/s (best round), connections by shard (last round), requests without an answer, calls of futex(2),\nand the part of the time in the server's own code that is in functions about locks\n\n", rounds, secs, n
    printf "%-10s %8s %12s %14s %10s %10s %10s\n", "device", "shards", "requests/s", "connections", "failed", "futexes", "locks"
    count = split(devices, names, " ")
    for (i = 1; i <= count; i++)
        for (shards = 1; shards <= 2; shards++) {
            key = names[i] SUBSEP shards
            printf "%-10s %8d %12.0f %14s %10d %10d %9s%%\n", names[i], shards, rate[key], spread[key], failures[key], futexes[key], locks[key]
        }
    print "\ngoals, with two shards"
    goal("the part of the connections that the shard with fewer has: at least 0.2", fewest, 0.2, 0)
    goal("requests without an answer: none", all_failures, 0, 1)
    goal("calls of futex(2) while loaded: none", all_futexes, 0, 1)
    goal("percent of the time in functions about locks: none", all_locks, 0, 1)
}
