-- Says at the end, in one line: requests seconds p50-us p99-us failures.
function done(summary, latency)
    local e = summary.errors
    io.write(string.format("result %d %.3f %.1f %.1f %d\n", summary.requests, summary.duration / 1e6,
        latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
