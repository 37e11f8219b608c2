"""ASTF: HTTP connections that ask many times against `nty http --hello`. One connection per second, times the multiplier.

Tunables: those of http_close.py, and --requests N per connection.
"""

import http_template


class KeepProfile:
    def get_profile(self, tunables=(), **kwargs):
        args = http_template.arguments(tunables, answer=438, requests=100)
        return http_template.profile(args, requests=args.requests, close=False)


def register():
    return KeepProfile()
