"""The part of trex.stl.api that is used, with as much of Scapy as goes into the packets."""

import importlib.util
import os


class STLError(Exception):
    pass


class _Layer:
    """Layers and payload, one behind the other."""

    def __init__(self, **fields):
        self.fields, self.layers, self.payload = fields, [self], b""

    def __truediv__(self, other):
        if isinstance(other, bytes):
            self.payload += other
        else:
            self.layers += other.layers
            self.payload = other.payload
        return self

    def __getitem__(self, kind):
        return next(layer for layer in self.layers if type(layer) is kind)


class Ether(_Layer):
    pass


class IP(_Layer):
    pass


class UDP(_Layer):
    pass


class STLVmFlowVar:
    def __init__(self, name, init_value=None, min_value=0, max_value=255, size=4, step=1, op="inc"):
        if size not in (1, 2, 4, 8) or op not in ("inc", "dec", "random") or not min_value <= max_value < 1 << 8 * size:
            raise STLError("flow variable %s is wrong" % name)
        self.name = name


class STLVmWrFlowVar:
    def __init__(self, fv_name, pkt_offset, offset_fixup=0, add_val=0, is_big=True):
        self.name = fv_name


class STLVmFixIpv4:
    def __init__(self, offset):
        self.name = None


class STLScVmRaw:
    def __init__(self, list_of_commands=None, split_by_field=None, cache_size=None):
        known = set()
        for command in list_of_commands or []:
            if isinstance(command, STLVmFlowVar):
                known.add(command.name)
            elif command.name is not None and command.name not in known:
                raise STLError("variable %s is not known" % command.name)


class STLPktBuilder:
    def __init__(self, pkt=None, pkt_buffer=None, vm=None, path_relative_to_profile=False):
        self.pkt = pkt


class STLTXCont:
    def __init__(self, bps_L1=None, bps_L2=None, pps=None, percentage=None):
        self.pps = pps


class STLStream:
    def __init__(self, name=None, packet=None, mode=None, flow_stats=None):
        self.packet, self.mode = packet, mode


class STLProfile:
    def __init__(self, streams=None):
        self.streams = streams or []

    def get_streams(self):
        return self.streams

    @classmethod
    def load_py(cls, path, direction=0, port_id=0, **kwargs):
        spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return cls(module.register().get_streams(direction=direction, port_id=port_id, **kwargs))

    @classmethod
    def load_pcap(cls, pcap_file, ipg_usec=None, speedup=1, loop_count=1, vm=None):
        if not os.path.isfile(pcap_file):
            raise STLError("File '%s' does not exist." % pcap_file)
        return cls([STLStream(name=1)])


class STLClient:
    """A TRex on which everything works, and a server that answers nine of ten packets."""

    def __init__(self, username=None, server="localhost"):
        self.streams, self.started = None, None

    def connect(self):
        pass

    def disconnect(self):
        pass

    def reset(self, ports=None):
        pass

    def add_streams(self, streams, ports=None):
        self.streams = streams

    def clear_stats(self):
        pass

    def start(self, ports=None, mult="1", force=False, duration=-1):
        self.started = float(mult) * duration

    def wait_on_traffic(self, ports=None, timeout=None):
        if not self.streams or self.started is None:
            raise STLError("nothing runs")

    def get_stats(self):
        sent = int(self.started)
        return {0: {"opackets": sent, "ipackets": sent * 9 // 10, "oerrors": 0, "ierrors": 0}}
