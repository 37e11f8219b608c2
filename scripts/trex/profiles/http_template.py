"""What the HTTP profiles share: no profile by itself.

The server is real, so TRex's own server side (port 1, a dummy) never sees a segment; its half of a template is there because
TRex wants one.
"""

import argparse

from trex.astf.api import (
    ASTFAssociationRule,
    ASTFIPGen,
    ASTFIPGenDist,
    ASTFIPGenGlobal,
    ASTFProfile,
    ASTFProgram,
    ASTFTCPClientTemplate,
    ASTFTCPServerTemplate,
    ASTFTemplate,
)


def clients(count):
    """The last of `count` addresses from 16.0.0.1 on."""
    if not 1 <= count <= 65_000:
        raise ValueError("--clients is %d: give 1 to 65000" % count)
    return "16.0.%d.%d" % divmod(count, 256)


def template(program_c, program_s, server, port, last_client):
    """Clients that run `program_c` against `server`:`port`."""
    ip_gen = ASTFIPGen(
        glob=ASTFIPGenGlobal(ip_offset="1.0.0.0"),
        dist_client=ASTFIPGenDist(ip_range=["16.0.0.1", last_client], distribution="seq"),
        dist_server=ASTFIPGenDist(ip_range=[server, server], distribution="seq"),
    )
    temp_c = ASTFTCPClientTemplate(program=program_c, ip_gen=ip_gen, port=port, cps=1)
    temp_s = ASTFTCPServerTemplate(program=program_s, assoc=ASTFAssociationRule(port=port))
    return ASTFProfile(default_ip_gen=ip_gen, templates=ASTFTemplate(client_template=temp_c, server_template=temp_s))


def arguments(tunables, answer, requests=None):
    parser = argparse.ArgumentParser(description="HTTP against a server that is not TRex's")
    parser.add_argument("--server", default="10.80.0.2", help="its address")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--path", default="/")
    parser.add_argument("--answer", type=int, default=answer, help="bytes of one whole answer")
    parser.add_argument("--clients", type=int, default=250, help="source addresses")
    if requests is not None:
        parser.add_argument("--requests", type=int, default=requests, help="requests per connection")
    return parser.parse_args(list(tunables))


def profile(args, requests, close):
    connection = "Connection: close\r\n" if close else ""
    request = "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (args.path, args.server, connection)
    program_c, program_s = ASTFProgram(), ASTFProgram()
    program_c.set_var("left", requests)
    program_c.set_label("again:")
    program_c.send(request)
    # Counted from the last receive on: TRex knows bytes, not answers.
    program_c.recv(args.answer, clear=True)
    program_c.jmp_nz("left", "again:")
    if close:
        # The server closes first, so that its port waits in TIME-WAIT and not TRex's.
        program_c.wait_for_peer_close()
    program_s.recv(len(request))
    program_s.send("x" * args.answer)
    return template(program_c, program_s, args.server, args.port, clients(args.clients))
