# From lines "server load requests seconds p50 p99 failures server-ns machine-ns" to the table and the goals of scripts/bench http.

{
    key = $1 SUBSEP $2
    rate[key] = most(rate[key], $3 / $4)
    slowest[key] = least(slowest[key], $3 / $4)
    p50[key] = least(p50[key], $5)
    p99[key] = least(p99[key], $6)
    failed[key] += $7
    if ($3 > 0) {
        server_cpu[key] = server_cpu[key] ($8 / $3 / 1000) " "
        machine_cpu[key] = machine_cpu[key] ($9 / $3 / 1000) " "
    }
}

# A ratio to the kernel's server under the same load.
function ratio(of, server, load) {
    return of[server, load] == "" || of["kernel", load] + 0 == 0 ? "" : of[server, load] / of["kernel", load]
}

function table(client,    i, j, n, names, row, total, k) {
    n = split(servers, names, " ")
    printf "\n%s: requests/s, connections/s, latency in us; in brackets the ratio to the kernel's server\n", client == "wrk" ? "wrk on kernel sockets" : "nty perf http on a packet socket (memif, virtio: at the other end)"
    printf "%-12s %16s %16s %16s %16s %14s %8s %8s %8s %7s\n", "server", "1 connection", "32", "500", "one each", "p50 at 1", "p99 at 1", "p50 500", "p99 500", "failed"
    for (i = 1; i <= n; i++) {
        if (rate[names[i], client "-1"] == "" && rate[names[i], client "-32"] == "" && rate[names[i], client "-500"] == "" && rate[names[i], client "-close"] == "") continue
        row = sprintf("%-12s", names[i])
        total = 0
        for (j = 1; j <= 4; j++) {
            k = client "-" (j == 1 ? 1 : j == 2 ? 32 : j == 3 ? 500 : "close")
            row = row sprintf(" %8s %7s", cell(rate[names[i], k], "%.0f"), cell(ratio(rate, names[i], k), "(%.2f)"))
            total += failed[names[i], k]
        }
        k = client "-1"
        row = row sprintf(" %6s %7s", cell(p50[names[i], k], "%.0f"), cell(ratio(p50, names[i], k), "(%.2f)"))
        row = row sprintf(" %8s %8s %8s %7d", cell(p99[names[i], k], "%.0f"), cell(p50[names[i], client "-500"], "%.0f"), cell(p99[names[i], client "-500"], "%.0f"), total)
        print row
    }
    printf "%-12s  CPU us per request: the server's process / the whole machine\n", ""
    for (i = 1; i <= n; i++) {
        row = sprintf("%-12s", names[i])
        for (j = 1; j <= 4; j++) {
            k = client "-" (j == 1 ? 1 : j == 2 ? 32 : j == 3 ? 500 : "close")
            if (server_cpu[names[i], k] == "") { row = row sprintf(" %16s", "-"); continue }
            row = row sprintf(" %7.1f /%7.1f", median(server_cpu[names[i], k]), median(machine_cpu[names[i], k]))
        }
        print row
    }
}

# The best (least or most) of our servers in a list, as a ratio to the kernel's.
function best(of, list, load, is_least,    n, names, i, r, value) {
    n = split(list, names, " ")
    value = ""
    for (i = 1; i <= n; i++) {
        r = ratio(of, names[i], load)
        if (r != "") value = is_least ? least(value, r) : most(value, r)
    }
    return value
}

END {
    printf "%d rounds of %d s each\n", rounds, secs
    if (loads ~ /wrk/) table("wrk")
    if (loads ~ /nty/) table("nty")
    print "\ngoals, as ratios to the kernel's server in the same run, over veth"
    goal("p50 at one connection, --busy-poll, wrk: at most 43/130", best(p50, "packet-busy xdp-busy", "wrk-1", 1), 43 / 130, 1)
    goal("connections/s, nty perf http: at least 2.2", best(rate, "packet packet-busy xdp xdp-busy", "nty-close", 0), 2.2, 0)
    split("wrk nty", clients, " ")
    split("1 32 500", sizes, " ")
    for (c = 1; c <= 2; c++) for (s = 1; s <= 3; s++) {
        load = clients[c] "-" sizes[s]
        for (key in server_cpu) cpu[key] = median(server_cpu[key])
        goal("server CPU per request, adaptive, " load ": at most 0.5", best(cpu, "packet xdp", load, 1), 0.5, 1)
    }
    stalls = ""
    n = split(servers, names, " ")
    m = split(loads, kinds, " ")
    for (i = 1; i <= n; i++) if (names[i] !~ /kernel|nginx/) for (j = 1; j <= m; j++) {
        k = names[i] SUBSEP kinds[j]
        if (rate[k] == "") continue
        # A second of stillness, or a request without an answer, in any round.
        if (slowest[k] < 0.25 * rate[k] || failed[k] > 0) stalls = stalls " " names[i] ":" kinds[j]
    }
    printf "%-96s %6s  %s\n", "no stall at any number of connections (no failure, no round below a quarter of the best)", "", stalls == "" ? "met" : "missed:" stalls
    user = kernel = ""
    for (i = 1; i <= m; i++) if (kinds[i] ~ /^nty-[0-9]/) {
        for (j = 1; j <= n; j++) if (names[j] ~ /memif|virtio/ && rate[names[j], kinds[i]] != "") user = most(user, rate[names[j], kinds[i]])
        if (rate["kernel", kinds[i]] != "") kernel = most(kernel, rate["kernel", kinds[i]])
    }
    goal("requests/s on a user-space wire, the most of nty perf http, to the most of the kernel's: at least 5", user == "" || kernel == "" ? "" : user / kernel, 5, 0)
}
