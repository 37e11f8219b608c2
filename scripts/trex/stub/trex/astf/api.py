"""The part of trex.astf.api that is used."""

import importlib.util
import os


class ASTFError(Exception):
    pass


def _whole(value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise ASTFError("%r is no whole number" % (value,))
    return value


class ASTFProgram:
    def __init__(self):
        self.commands, self.labels, self.variables = [], {}, {}

    def send(self, buf):
        self.commands.append(("send", buf.encode("ascii") if isinstance(buf, str) else bytes(buf)))

    def recv(self, bytes, clear=False):
        self.commands.append(("recv", _whole(bytes), clear))

    def set_var(self, var_id, val):
        self.variables[var_id] = _whole(val)
        self.commands.append(("set_var", var_id, val))

    def set_label(self, label):
        if label in self.labels:
            raise ASTFError("label %s was defined already" % label)
        self.labels[label] = len(self.commands)

    def jmp_nz(self, var_id, label):
        if var_id not in self.variables or label not in self.labels:
            raise ASTFError("%s or %s was not defined" % (var_id, label))
        self.commands.append(("jmp_nz", var_id, label))

    def wait_for_peer_close(self):
        self.commands.append(("wait_for_peer_close",))

    def run(self):
        """What the client sends, and how many bytes it expects, in order."""
        at, left, steps = 0, dict(self.variables), []
        while at < len(self.commands):
            command = self.commands[at]
            at += 1
            if command[0] == "jmp_nz":
                left[command[1]] -= 1
                if left[command[1]] != 0:
                    at = self.labels[command[2]]
            elif command[0] != "set_var":
                steps.append(command)
        return steps


class ASTFIPGenDist:
    def __init__(self, ip_range, distribution="seq"):
        if distribution not in ("seq", "rand") or len(ip_range) != 2:
            raise ASTFError("a range of addresses has a first and a last one")
        self.ip_range = ip_range


class ASTFIPGenGlobal:
    def __init__(self, ip_offset="1.0.0.0"):
        self.ip_offset = ip_offset


class ASTFIPGen:
    def __init__(self, dist_client, dist_server, glob=None):
        self.dist_client, self.dist_server, self.glob = dist_client, dist_server, glob


class ASTFAssociationRule:
    def __init__(self, port=80, ip_start=None, ip_end=None, l7_map=None):
        self.port = _whole(port)


class ASTFTCPClientTemplate:
    def __init__(self, ip_gen, cluster=None, program=None, port=80, cps=1, glob_info=None, limit=None):
        self.ip_gen, self.program, self.port, self.cps = ip_gen, program, _whole(port), cps


class ASTFTCPServerTemplate:
    def __init__(self, program=None, assoc=None, glob_info=None):
        self.program, self.assoc = program, assoc


class ASTFTemplate:
    def __init__(self, client_template=None, server_template=None, tg_name=None):
        self.client_template, self.server_template = client_template, server_template


class ASTFProfile:
    def __init__(self, default_ip_gen, default_c_glob_info=None, default_s_glob_info=None, templates=None, cap_list=None):
        self.default_ip_gen, self.templates = default_ip_gen, templates

    @classmethod
    def load(cls, path, **kwargs):
        spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.register().get_profile(**kwargs)


class ASTFClient:
    """A TRex on which everything works."""

    def __init__(self, username=None, server="localhost"):
        self.server, self.profile, self.started = server, None, None

    def connect(self):
        pass

    def disconnect(self):
        pass

    def reset(self, restart=False):
        pass

    def load_profile(self, profile, tunables={}, pid_input="_"):
        self.profile = ASTFProfile.load(profile, **tunables)

    def clear_stats(self):
        pass

    def start(self, mult=1, duration=-1, nc=False, block=True, latency_pps=0):
        self.started = mult, duration

    def wait_on_traffic(self, timeout=None):
        if self.profile is None or self.started is None:
            raise ASTFError("nothing runs")

    def get_stats(self):
        made = int(self.started[0] * self.started[1])
        return {"traffic": {"client": {"tcps_connattempt": made, "tcps_connects": made, "tcps_closed": made}, "server": {}}}
