"""DNS queries as bytes: no profile by itself."""

import struct


def query(name, ident=0, qtype=1):
    """The message that asks for `name` (RFC 1035 4.1), type A by default, class IN."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError("%r is no domain name: give labels of 1 to 63 letters with points between" % name)
    qname = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", ident, 0, 1, 0, 0, 0) + qname + struct.pack("!2H", qtype, 1)
