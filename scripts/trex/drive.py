#!/usr/bin/env python3
"""Runs a profile on a TRex that is there already (t-rex-64 -i), and says what came of it.

    drive.py --trex DIR --mode stl|astf --profile FILE [--multiplier M] [--time SECONDS] [TUNABLE...]

Exit status 0 when traffic came back, 1 when none did or TRex refused, 2 for wrong arguments.
"""

import argparse
import os
import sys

API = "automation/trex_control_plane/interactive"


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trex", required=True, help="where TRex is unpacked")
    parser.add_argument("--mode", required=True, choices=["stl", "astf"])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--multiplier", type=float, default=1000)
    parser.add_argument("--time", type=float, default=10)
    return parser.parse_known_args(argv)


def run_astf(args, tunables):
    from trex.astf.api import ASTFClient

    client = ASTFClient(server="127.0.0.1")
    client.connect()
    try:
        client.reset()
        client.load_profile(args.profile, tunables={"tunables": tunables})
        client.clear_stats()
        client.start(mult=args.multiplier, duration=args.time)
        client.wait_on_traffic()
        return astf_report(client.get_stats()["traffic"]["client"], args.time)
    finally:
        client.disconnect()


def astf_report(counters, seconds):
    """Lines from the counters of TRex's client side, and whether a connection was made."""

    def count(name):
        return counters.get(name, 0)

    made = count("tcps_connects")
    lines = [
        "connections: %d tried, %d made, %.0f/s, %d ended" % (count("tcps_connattempt"), made, made / seconds, count("tcps_closed")),
        "bytes: %d sent, %d received" % (count("tcps_sndbyte"), count("tcps_rcvbyte")),
        "trouble: %d given up, %d SYN and %d other timeouts, %d segments sent again, %d resets"
        % (
            count("tcps_drops"),
            count("tcps_rexmttimeo_syn"),
            count("tcps_rexmttimeo"),
            count("tcps_sndrexmitpack"),
            count("tcps_conndrops"),
        ),
    ]
    return lines, made > 0


def run_stl(args, tunables):
    from trex.stl.api import STLClient, STLProfile

    client = STLClient(server="127.0.0.1")
    client.connect()
    try:
        client.reset(ports=[0])
        profile = STLProfile.load_py(args.profile, direction=0, port_id=0, tunables=tunables)
        client.add_streams(profile.get_streams(), ports=[0])
        client.clear_stats()
        client.start(ports=[0], mult=str(args.multiplier), duration=args.time)
        client.wait_on_traffic(ports=[0])
        return stl_report(client.get_stats()[0], args.time)
    finally:
        client.disconnect()


def stl_report(counters, seconds):
    """Lines from the counters of a port, and whether a packet came back."""
    sent, received = counters["opackets"], counters["ipackets"]
    lines = [
        "packets: %d sent, %.0f/s; %d received, %.0f/s" % (sent, sent / seconds, received, received / seconds),
        "not answered: %.3f %%; errors of the port: %d out, %d in"
        % (100.0 * max(sent - received, 0) / max(sent, 1), counters["oerrors"], counters["ierrors"]),
    ]
    return lines, received > 0


def main(argv):
    args, tunables = arguments(argv)
    # The profiles import what they share from beside them.
    sys.path[:0] = [os.path.join(args.trex, API), os.path.dirname(os.path.abspath(args.profile))]
    try:
        lines, is_good = (run_astf if args.mode == "astf" else run_stl)(args, tunables)
    except ImportError as error:
        print("%s: its Python API cannot be loaded: %s" % (args.trex, error), file=sys.stderr)
        return 1
    except Exception as error:  # TRexError is not known before the import, and each of its kind means the same here.
        print("TRex: %s" % error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    if not is_good:
        print("nothing came back: is the server up, and are its answers routed to TRex?", file=sys.stderr)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
