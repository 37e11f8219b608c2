"""STL: the packets of a capture, one after the other and over again. As the capture has them, or at an even pace.

TRex puts its own and the next hop's Ethernet addresses in; IP addresses and ports are the capture's, so it has to be one of clients
that asked the server's address. The multiplier makes it so many times as fast.

Tunables: --pcap FILE (needed), --gap MICROSECONDS from packet to packet instead of the capture's, --loops N (0: over and over).
"""

import argparse

from trex.stl.api import STLProfile


class PcapProfile:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="a capture")
        parser.add_argument("--pcap", required=True)
        parser.add_argument("--gap", type=float)
        parser.add_argument("--loops", type=int, default=0)
        args = parser.parse_args(list(tunables))
        return STLProfile.load_pcap(args.pcap, ipg_usec=args.gap, loop_count=args.loops).get_streams()


def register():
    return PcapProfile()
