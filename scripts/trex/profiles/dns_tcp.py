"""ASTF: DNS over TCP against `nty dns`, several queries per connection. One connection per second, times the multiplier.

Tunables: --server ADDRESS, --port PORT, --name NAME, --answer BYTES of its answer without the length in front, --queries N per
connection, --clients N source addresses.
"""

import argparse
import struct

from trex.astf.api import ASTFProgram

import dns_message
import http_template


class DnsTcpProfile:
    def get_profile(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="DNS over TCP")
        parser.add_argument("--server", default="10.80.0.2")
        parser.add_argument("--port", type=int, default=53)
        parser.add_argument("--name", default="h1.example.test")
        parser.add_argument("--answer", type=int, help="bytes of the answer; by default those of the query and one A record")
        parser.add_argument("--queries", type=int, default=10)
        parser.add_argument("--clients", type=int, default=250)
        args = parser.parse_args(list(tunables))
        message = dns_message.query(args.name)
        # A compressed owner, type, class, TTL, length and an IPv4 address.
        answer = args.answer or len(message) + 16
        program_c, program_s = ASTFProgram(), ASTFProgram()
        program_c.set_var("left", args.queries)
        program_c.set_label("again:")
        # RFC 1035 4.2.2: two bytes of length in front.
        program_c.send(struct.pack("!H", len(message)) + message)
        program_c.recv(2 + answer, clear=True)
        program_c.jmp_nz("left", "again:")
        program_s.recv(2 + len(message))
        program_s.send(b"x" * (2 + answer))
        return http_template.template(
            program_c, program_s, args.server, args.port, http_template.clients(args.clients)
        )


def register():
    return DnsTcpProfile()
