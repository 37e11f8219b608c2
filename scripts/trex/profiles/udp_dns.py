"""STL: DNS queries over UDP against `nty dns`, from many addresses and ports. 1 query per second in all, times the multiplier.

Tunables: --server ADDRESS, --port PORT, --names N (h0.ZONE to hN-1.ZONE, a stream each), --zone ZONE, --clients N.
"""

import argparse

from trex.stl.api import (
    IP,
    UDP,
    Ether,
    STLPktBuilder,
    STLScVmRaw,
    STLStream,
    STLTXCont,
    STLVmFixIpv4,
    STLVmFlowVar,
    STLVmWrFlowVar,
)

import dns_message


class UdpDnsProfile:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="DNS over UDP")
        parser.add_argument("--server", default="10.80.0.2")
        parser.add_argument("--port", type=int, default=53)
        parser.add_argument("--names", type=int, default=8, help="different queries")
        parser.add_argument("--zone", default="example.test")
        parser.add_argument("--clients", type=int, default=1000, help="source addresses")
        args = parser.parse_args(list(tunables))
        if not (1 <= args.names <= 256 and 1 <= args.clients <= 65_000):
            raise ValueError("give --names 1 to 256 and --clients 1 to 65000")
        return [self.stream(args, "h%d.%s" % (i, args.zone)) for i in range(args.names)]

    def stream(self, args, name):
        # No checksum (RFC 768: zero), which need not be mended when address and port change.
        packet = (
            Ether()
            / IP(src="16.0.0.1", dst=args.server)
            / UDP(sport=1025, dport=args.port, chksum=0)
            / dns_message.query(name)
        )
        vary = STLScVmRaw(
            [
                STLVmFlowVar(name="host", min_value=1, max_value=args.clients, size=2, op="inc"),
                STLVmWrFlowVar(fv_name="host", pkt_offset="IP.src", offset_fixup=2),
                STLVmFlowVar(name="port", min_value=1025, max_value=65_000, size=2, op="inc", step=7),
                STLVmWrFlowVar(fv_name="port", pkt_offset="UDP.sport"),
                STLVmFixIpv4(offset="IP"),
            ]
        )
        return STLStream(packet=STLPktBuilder(pkt=packet, vm=vary), mode=STLTXCont(pps=1.0 / args.names))


def register():
    return UdpDnsProfile()
