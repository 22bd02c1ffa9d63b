# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile guests for the end-to-end tests: what peer.py does not find in itself it looks for here."""
import errno
import os
import random
import select
import socket
import struct
import time

from peer import checksum, connect, family_of, make_frame, raise_limit, say, tcp_header

SOURCE, SOURCE6, TARGET, TARGET6 = "10.0.2.100", "fd00::1234", "203.0.113.9", "2001:db8:1::9"
NOBODY = "10.0.2.77"  # an address of the guest's network that its kernel does not have: nothing answers for it
SILENT = "198.51.100"  # routed by the test to where it is dropped
PACKET_VNET_HDR = 15
FRAMES = 2000  # made in advance, so that making them does not take the time of sending


def flags_of(rnd):
    return rnd.choice([1, 4, 5, 17, 20, 0, 63])  # FIN, RST, both, FIN|ACK, RST|ACK, none, all


def icmp6(mac, src, dst, body):
    """To everybody; the checksum is right."""
    src_b, dst_b = (socket.inet_pton(socket.AF_INET6, a) for a in (src, dst))
    total = checksum(src_b + dst_b + struct.pack("!IHBB", len(body), 0, 0, 58) + body)
    return (b"\x33\x33" + dst_b[12:] + mac + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(body), 58, 255) +
            src_b + dst_b + body[:2] + struct.pack("!H", total) + body[4:])


class Maker:
    """One frame of each kind; all randomness is the same in each run."""

    def __init__(self, mac):
        self.mac, self.rnd = mac, random.Random(1)

    def tcp(self, i, flags, port, dst=TARGET, extra=b"", window=65535, source=SOURCE):
        header = tcp_header(1024 + i % 60000, port, flags, seq=self.rnd.getrandbits(32), window=window)
        header = header[:12] + bytes([(20 + len(extra)) // 4 << 4]) + header[13:] + extra
        return make_frame(self.mac, source, dst, 6, header)

    def syn_flood(self, i):
        return self.tcp(i, 2, 7000)

    def syn_options(self, i):
        return self.tcp(i, 2, 7000, extra=self.rnd.randbytes(40))

    def port_scan(self, i):
        return self.tcp(i, 2, 1 + i % 65000)

    def scan_of_the_loopback(self, i):
        return self.tcp(i, 2, 1 + i % 65000, "10.0.2.2")

    def rst_fin_storm(self, i):
        return self.tcp(i, flags_of(self.rnd), 7000)

    def half_open(self, i):
        """Connections whose guest never says anything again."""
        if i % 100 == 0:
            return (b"\xff" * 6 + self.mac + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2" + self.mac + socket.inet_aton(NOBODY) +
                    b"\xff" * 6 + socket.inet_aton("10.0.2.2"))
        return self.tcp(i, 2, 7000, source=NOBODY)

    def silent_places(self, i):
        """The same, to many places from which no answer ever comes."""
        return self.tcp(i, 2, 1 + i % 65000, f"{SILENT}.{1 + i % 250}", source=NOBODY)

    def udp_spray(self, i):
        return make_frame(self.mac, SOURCE, TARGET, 17,
                          struct.pack("!HHHH", 1024 + i % 60000, 1 + i % 65000, 8 + 64, 0) + b"s" * 64)

    def fragments(self, i):
        """Overlapping, and none is the last."""
        whole = make_frame(self.mac, SOURCE, TARGET, 17, struct.pack("!HHHH", 5, 6, 1408, 0) + b"f" * 1400)
        ip = bytearray(whole[14:34])
        struct.pack_into("!HH", ip, 4, i & 0xffff, 0x2000 | self.rnd.randrange(8))
        struct.pack_into("!H", ip, 10, 0)
        struct.pack_into("!H", ip, 10, checksum(bytes(ip)))
        return whole[:14] + bytes(ip) + whole[34:]

    def arp_spoof(self, i):
        """Every address of the network, the gateway's, too, is said to have another MAC address each time."""
        return (b"\xff" * 6 + self.mac + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2" + self.rnd.randbytes(6) +
                bytes([10, 0, 2, i % 256]) + b"\xff" * 6 + bytes([10, 0, 2, 2]))

    def ndp_spoof(self, i):
        """Neighbour and router advertisements, and solicitations, in the names of gateway, resolver and guest."""
        claimed = ["fd00::2", "fd00::3", "fe80::2", SOURCE6, "::1"][i % 5]
        link = b"\2\1" + self.rnd.randbytes(6)
        target = socket.inet_pton(socket.AF_INET6, claimed)
        body = [b"\x88\0\0\0\xa0\0\0\0" + target + link, b"\x87\0\0\0\0\0\0\0" + target + b"\1" + link[1:],
                b"\x86\0\0\0\x40\0\x07\x08" + bytes(8) + b"\1" + link[1:],
                b"\x88\0\0\0\xa0\0\0\0" + target + b"\2\0" + bytes(6)][i % 4]  # the last: an option without a length
        return icmp6(self.mac, claimed if claimed != "::1" else SOURCE6, "ff02::1", body)

    def checksum_lies(self, i):
        """Each of the checksums in turn is wrong."""
        dst = [TARGET, TARGET6][i // 4 % 2]
        source = SOURCE6 if ":" in dst else SOURCE
        udp = struct.pack("!HHHH", 1024 + i % 60000, 7000, 8 + 16, 0) + b"c" * 16
        frame = bytearray(make_frame(self.mac, source, dst, 17, udp) if i % 2 else
                          make_frame(self.mac, source, dst, 6, tcp_header(1024 + i % 60000, 7000, 2)))
        at = [24 if ":" not in dst else 20, (54 if ":" in dst else 34) + (6 if i % 2 else 16)][i % 4 // 2]
        frame[at] ^= 1 + self.rnd.randrange(255)
        return bytes(frame)


def pack_gso(rnd, frame):
    """A virtio header for its frame with one or two lies; the kernel passes on only some of them."""
    v6, tcp = frame[12:14] == b"\x86\xdd", frame[20 if frame[12:14] == b"\x86\xdd" else 23] == 6
    l4 = 54 if v6 else 34
    header = [1, (4 if v6 else 1) if tcp and len(frame) > 1514 else 0, l4 + 20, 1400, l4, 16 if tcp else 6]
    lies = [lambda: rnd.choice([0, 3, 2, 255]), lambda: rnd.choice([0, 1, 3, 4, 5, 0x81, 0x84, rnd.randrange(256)]),
            lambda: rnd.choice([0, 1, 14, rnd.randrange(65536)]), lambda: rnd.choice([0, 1, 8, 65535, len(frame), 30000]),
            lambda: rnd.choice([0, 14, l4 + 4, l4 - 6, rnd.randrange(120), 65535]),
            lambda: rnd.choice([0, 1, 6, 16, rnd.randrange(2000), 65535])]
    for at in rnd.sample(range(6), rnd.choice([1, 1, 2])):
        header[at] = lies[at]()
    return struct.pack("=BBHHHH", *header)


def gso_lies(maker, n):
    """Frames with their headers: TCP and UDP of many sizes, either family."""
    made = []
    for i in range(n):
        rnd, dst = maker.rnd, [TARGET, TARGET6][i % 2]
        size = rnd.choice([0, 1, 100, 1400, 4000, 20000, 60000])
        l4 = (tcp_header(1024 + i % 60000, 7000, rnd.choice([2, 16, 24])) if i % 4 < 2 else
              struct.pack("!HHHH", 1024 + i % 60000, 7000, 8 + size, 0)) + bytes(size)
        frame = make_frame(maker.mac, SOURCE6 if ":" in dst else SOURCE, dst, 6 if i % 4 < 2 else 17, l4)
        made.append(pack_gso(rnd, frame) + frame)
    return made


def raw_attack(interface, kind, seconds, rate, n_frames=FRAMES):
    """@rate hostile frames a second for @seconds, in bursts of a hundredth, @n_frames different ones; prints how many
    it were."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    maker = Maker(s.getsockname()[4])
    if kind == "gso_lies":
        s.setsockopt(socket.SOL_PACKET if hasattr(socket, "SOL_PACKET") else 263, PACKET_VNET_HDR, 1)
        frames = gso_lies(maker, int(n_frames))
    else:
        frames = [getattr(maker, kind)(i) for i in range(int(n_frames))]
    tried, refused, begin = 0, 0, time.monotonic()
    say(event="ready")
    while (now := time.monotonic() - begin) < float(seconds):
        while tried < now * int(rate):
            try:
                s.send(frames[tried % len(frames)])
            except OSError as e:
                if e.errno not in (errno.ENOBUFS, errno.EINVAL, errno.EMSGSIZE):
                    raise
                refused += e.errno != errno.ENOBUFS
            tried += 1
        time.sleep(0.01)
    say(sent=tried - refused, refused=refused)


def slow_readers(addr, port, kind, n, seconds):
    """@n connections to an endless source: none is read from (zero_window), or a byte at a time (one_byte)."""
    raise_limit()
    socks, read = [], 0
    for _ in range(int(n)):
        s = socket.socket(family_of(addr), socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.settimeout(30)
        s.connect((addr, int(port)))
        socks.append(s)
    say(event="ready")
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        if kind == "one_byte":
            for s in select.select(socks, [], [], 0)[0]:
                read += len(s.recv(1))
        time.sleep(0.01)
    say(sent=len(socks), read=read)


def idle_connections(addr, port, n, seconds):
    """@n connections that do nothing."""
    raise_limit()
    socks = [connect(addr, int(port)) for _ in range(int(n))]
    say(event="ready")
    time.sleep(float(seconds))  # how long they stand there is what is asked for
    say(sent=len(socks), pid=os.getpid())
