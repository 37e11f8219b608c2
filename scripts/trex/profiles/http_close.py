"""ASTF: one HTTP request per connection against `nty http --hello`. One connection per second, times the multiplier.

Tunables: --server ADDRESS, --port PORT, --path PATH, --answer BYTES of the whole answer, --clients N source addresses.
"""

import http_template


class CloseProfile:
    def get_profile(self, tunables=(), **kwargs):
        args = http_template.arguments(tunables, answer=457)
        return http_template.profile(args, requests=1, close=True)


def register():
    return CloseProfile()
