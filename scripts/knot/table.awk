# From lines "server answers seconds server-ns machine-ns" to the table and the goal of scripts/bench knot.

{
    rates[$1] = rates[$1] ($2 / $3) " "
    cpu[$1] = cpu[$1] ($4 / $2) " "
    machine[$1] = machine[$1] ($5 / $2) " "
}

END {
    # The median, not the best: who had both cores for itself in one round would win.
    for (k in rates) rate[k] = median(rates[k])
    printf "%d rounds of %d s each, %d names; kxdpgun on the other core\n", rounds, secs, names
    printf "%-10s %12s %14s %28s\n", "", "answers/s", "of knotd's", "CPU ns per answer, / machine"
    n = split(servers, list, " ")
    for (i = 1; i <= n; i++) {
        k = list[i]
        printf "%-10s %12.0f %14s %18.0f / %7.0f\n", k, rate[k], cell(over(rate[k], rate["knot"]), "%.2f"), median(cpu[k]), median(machine[k])
    }
    goal("nty dns over AF_XDP, answers/s: at least 0.8 of knotd's in XDP mode", over(most(rate["xdp"], rate["xdp-busy"]), rate["knot"]), 0.8, 0)
}
