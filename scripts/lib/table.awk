# What the tables of the benches have in common.

function least(old, new) { return old == "" || new < old ? new : old }
function most(old, new) { return old == "" || new > old ? new : old }

# The median of a list "a b c ".
function median(list,    n, v, i, j, t) {
    n = split(list, v, " ")
    for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
    return n == 0 ? "" : v[int((n + 1) / 2)]
}

function over(one, other) { return one == "" || other + 0 == 0 ? "" : one / other }
function cell(value, format) { return value == "" ? "-" : sprintf(format, value) }

# One line: what was wanted, what it is, and whether that is enough (at least, or at most, the bound).
function goal(what, value, bound, is_most,    met) {
    if (value == "") { printf "%-96s not measured\n", what; return }
    met = is_most ? value <= bound : value >= bound
    printf "%-96s %6.2f  %s\n", what, value, met ? "met" : "missed"
}
