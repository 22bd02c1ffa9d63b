#!/usr/bin/python3
"""Small network peers for the end-to-end tests; each runs inside one of the test's namespaces.

A server prints "ready" when it listens and one JSON line per event; a client prints one JSON line and ends.
Everything is bounded: a peer that waits longer than its deadline ends with an error.
"""
import collections
import errno
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import time
from _thread import start_new_thread

DEADLINE_S = 30


def say(**event):
    """In one piece: threads say things at the same time, and print() writes the end of its line by itself."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def family_of(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def pattern(n_bytes, seed=7):
    """Deterministic bytes that no shift or repetition leaves unchanged."""
    blocks = []
    block = hashlib.sha256(str(seed).encode()).digest()
    while len(blocks) * len(block) * 512 < n_bytes:
        block = hashlib.sha256(block).digest()
        blocks.append(block * 512)
    return b"".join(blocks)[:n_bytes]


def where(addr, port):
    """Also of a link-local address with its interface."""
    if "%" not in addr:
        return addr, port
    addr, interface = addr.split("%")
    return addr, port, 0, socket.if_nametoindex(interface)


def listen(addr, port, backlog=1024):
    s = socket.socket(family_of(addr), socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((addr, port))
    s.listen(backlog)
    s.settimeout(DEADLINE_S * 4)
    say(event="ready", port=s.getsockname()[1])
    return s


def connect(addr, port, source=None, timeout_s=DEADLINE_S):
    s = socket.socket(family_of(addr), socket.SOCK_STREAM)
    s.settimeout(timeout_s)
    if source:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if source[1] == 0:
            s.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: connect() finds one
        s.bind(tuple(source))
    s.connect(where(addr, port))
    return s


def read_all(s):
    h, n = hashlib.sha256(), 0
    while True:
        data = s.recv(1 << 16)
        if not data:
            return n, h.hexdigest()
        h.update(data)
        n += len(data)


def serve_tcp(addr, port, handler, listener=None):
    s = listener or listen(addr, int(port))

    def one(c, peer):
        try:
            c.settimeout(DEADLINE_S)
            handler(c, peer)
        except OSError as e:
            say(event="error", errno=errno.errorcode.get(e.errno, str(e)))
        finally:
            c.close()

    while True:
        c, peer = s.accept()
        start_new_thread(one, (c, peer[:2]))


def tcp_echo(addr, port):
    """Echoes; reports who connected."""
    def handler(c, peer):
        say(event="accepted", peer=peer[0], port=peer[1])
        while data := c.recv(1 << 16):
            c.sendall(data)
    serve_tcp(addr, port, handler)


def tcp_echo_late(addr, port, backlog):
    """Echoes, but accepts nobody before SIGUSR1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    listener = listen(addr, int(port), int(backlog))
    signal.sigtimedwait([signal.SIGUSR1], DEADLINE_S * 4)

    def handler(c, _):
        while data := c.recv(1 << 16):
            c.sendall(data)
    serve_tcp(addr, port, handler, listener)


def tcp_echo_many(addr, port):
    """Echoes for thousands of connections, without a thread for each."""
    raise_limit()
    listener = listen(addr, int(port))
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    conns = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                try:
                    while True:
                        c, _ = listener.accept()
                        conns[c.fileno()] = c
                        poll.register(c, select.EPOLLIN)
                except BlockingIOError:
                    continue
            c = conns[fd]
            try:
                data = c.recv(65536)
            except OSError:
                data = b""
            if data:
                c.sendall(data)
            else:
                poll.unregister(fd)
                del conns[fd]
                c.close()


def raise_limit():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def blocks(n_bytes):
    """The same megabytes again and again, each marked with its number."""
    block = bytearray(pattern(1 << 20))
    for i in range(n_bytes >> 20):
        struct.pack_into("!I", block, 0, i)
        yield block


def tcp_sink_big(addr, port):
    tcp_sink(addr, port)


def tcp_source_big(addr, port, n_bytes):
    def handler(c, peer):
        for block in blocks(int(n_bytes)):
            c.sendall(block)
        c.shutdown(socket.SHUT_WR)
        read_all(c)
    serve_tcp(addr, port, handler)


def digest_of(n_bytes):
    """Of what tcp_source_big sends."""
    h = hashlib.sha256()
    for block in blocks(int(n_bytes)):
        h.update(block)
    say(sha256=h.hexdigest())


def client_upload_big(addr, port, n_bytes, pause_s="0"):
    """Pauses after the first block."""
    h = hashlib.sha256()
    on_signal()
    with connect(addr, port) as s:
        for i, block in enumerate(blocks(int(n_bytes))):
            s.sendall(block)
            h.update(block)
            if i == 0:
                pause(pause_s)
        s.shutdown(socket.SHUT_WR)
        reply = json.loads(s.makefile().read())
    return {"sha256": h.hexdigest(), "server": reply}


def tcp_sink(addr, port):
    """Reads everything to the end, then answers count and digest and closes: needs a working half close."""
    def handler(c, peer):
        n, digest = read_all(c)
        c.sendall(json.dumps({"n": n, "sha256": digest}).encode())
        say(event="sunk", n=n, sha256=digest)
    serve_tcp(addr, port, handler)


def tcp_source(addr, port, n_bytes):
    """Sends the pattern and closes its half, then waits for the client's end."""
    data = pattern(int(n_bytes))

    def handler(c, peer):
        c.sendall(data)
        c.shutdown(socket.SHUT_WR)
        n, _ = read_all(c)
        say(event="source_done", n=n)
    serve_tcp(addr, port, handler)


def tcp_reset(addr, port):
    """Resets each connection after one byte has come."""
    def handler(c, peer):
        c.recv(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    serve_tcp(addr, port, handler)


def tcp_hello(addr, port):
    """Greets and closes at once."""
    def handler(c, peer):
        c.sendall(b"hello %s" % peer[0].encode())
    serve_tcp(addr, port, handler)


def signalled():
    """Waits for SIGUSR1, which on_signal() has blocked."""
    if not signal.sigtimedwait({signal.SIGUSR1}, DEADLINE_S):
        raise TimeoutError(errno.ETIMEDOUT, "no signal came")


def on_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def pause(pause_s):
    """For so many seconds, or ("signal") as long as somebody else wants it."""
    if pause_s == "signal":
        signalled()
    else:
        time.sleep(float(pause_s))


def accept_one(addr, port):
    """One connection; a second one is refused as long as it lives."""
    with listen(addr, int(port)) as s:
        c, peer = s.accept()
    c.settimeout(DEADLINE_S)
    say(event="accepted", peer=peer[0], port=peer[1])
    return c


def how_it_ends(s):
    """Reads to the end: how many bytes, their digest, and whether the end was orderly."""
    h, n = hashlib.sha256(), 0
    try:
        while data := s.recv(1 << 16):
            h.update(data)
            n += len(data)
        end = "eof"
    except OSError as e:
        end = errno.errorcode.get(e.errno, str(e))
    return {"n": n, "sha256": h.hexdigest(), "end": end}


def tcp_http(addr, port, n_bytes):
    """Answers every request with the pattern."""
    body = pattern(int(n_bytes))

    def handler(c, peer):
        request = b""
        while b"\r\n\r\n" not in request and (data := c.recv(65536)):
            request += data
        c.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    serve_tcp(addr, port, handler)


def client_http(addr, port, path, source_addr=None):
    """What the body is."""
    with connect(addr, port, (source_addr, 0) if source_addr else None) as s:
        s.sendall(b"GET %s HTTP/1.0\r\n\r\n" % path.encode())
        got = s.makefile("rb").read()
    return {"body": got.split(b"\r\n\r\n", 1)[-1].decode(errors="replace")}


def tcp_watch(addr, port):
    """Says how each connection ends."""
    def handler(c, peer):
        say(event="accepted", peer=peer[0], port=peer[1])
        say(event="ended", **how_it_ends(c))
    serve_tcp(addr, port, handler)


def tcp_half(addr, port, n_bytes):
    """Sends, closes its half, and goes on reading."""
    def handler(c, peer):
        c.sendall(pattern(int(n_bytes)))
        c.shutdown(socket.SHUT_WR)
        say(event="ended", **how_it_ends(c))
    serve_tcp(addr, port, handler)


def tcp_answer_at_end(addr, port, n_bytes):
    """Answers when the client has ended its half, then closes."""
    def handler(c, peer):
        read_all(c)
        c.sendall(pattern(int(n_bytes)))
    serve_tcp(addr, port, handler)


def tcp_hold(addr, port):
    """One connection; SIGUSR1 makes it close its half."""
    on_signal()
    both_close(accept_one(addr, port))


def tcp_quiet(addr, port):
    """One connection; reads nothing before SIGUSR1, then everything."""
    on_signal()
    with accept_one(addr, port) as c:
        signalled()
        n, digest = read_all(c)
        c.sendall(json.dumps({"n": n, "sha256": digest}).encode())


def tcp_last_word(addr, port):
    """Answers one line and closes first."""
    def handler(c, peer):
        c.sendall(c.recv(100))
    serve_tcp(addr, port, handler)


def tcp_greet(addr, port):
    """Greets and closes, whatever the client does."""
    def handler(c, peer):
        c.sendall(b"hello")
    serve_tcp(addr, port, handler)


def tcp_keepalive(addr, port):
    """Echoes, and looks every second whether a silent client is still there."""
    def handler(c, peer):
        ask_every_second(c)
        while data := c.recv(1 << 16):
            c.sendall(data)
        say(event="ended", end="eof")
    serve_tcp(addr, port, handler)


def ask_every_second(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def both_close(s):
    signalled()
    s.shutdown(socket.SHUT_WR)
    say(event="shut")
    say(event="ended", **how_it_ends(s))
    s.close()


def udp_echo(addr, port):
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.bind((addr, int(port)))
    say(event="ready", port=s.getsockname()[1])
    while True:
        data, peer = s.recvfrom(65536)
        say(event="datagram", peer=peer[0], port=peer[1], n=len(data))
        s.sendto(data, peer)


def unix_relay(addr, port, path):
    """A TCP port that leads to a UNIX socket."""
    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        finally:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def handler(c, peer):
        import threading

        u = socket.socket(socket.AF_UNIX)
        u.connect(path)
        thread = threading.Thread(target=pump, args=(u, c), daemon=True)
        thread.start()
        pump(c, u)
        thread.join()
        u.close()
    serve_tcp(addr, port, handler)


def dns(addr, port, answer):
    """Answers every question, UDP and TCP, with one A record."""
    def reply(q):
        end = 12
        while q[end]:
            end += q[end] + 1
        end += 5
        return (q[:2] + b"\x81\x80" + q[4:6] + b"\0\1\0\0\0\0" + q[12:end] +
                b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(answer))

    u = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    u.bind((addr, int(port)))

    def udp():
        while True:
            q, peer = u.recvfrom(4096)
            u.sendto(reply(q), peer)

    start_new_thread(udp, ())

    def handler(c, peer):
        n = struct.unpack("!H", c.recv(2, socket.MSG_WAITALL))[0]
        a = reply(c.recv(n, socket.MSG_WAITALL))
        c.sendall(struct.pack("!H", len(a)) + a)
    serve_tcp(addr, port, handler)


def client(what, addr, port, *args):
    """One connection; the result, or the errno's name."""
    start = time.monotonic()
    try:
        result = globals()["client_" + what](addr, int(port), *args)
    except (OSError, socket.timeout) as e:
        name = "TIMEOUT" if isinstance(e, socket.timeout) and not e.errno else errno.errorcode.get(e.errno, str(e))
        result = {"errno": name}
    say(seconds=round(time.monotonic() - start, 3), **result)


def client_connect(addr, port, timeout_s=str(DEADLINE_S)):
    connect(addr, port, timeout_s=float(timeout_s)).close()
    return {"ok": True}


def client_echo(addr, port, text="x", source_addr=None, source_port=None):
    with connect(addr, port, (source_addr, int(source_port or 0)) if source_addr else None) as s:
        s.sendall(text.encode())
        s.shutdown(socket.SHUT_WR)
        got = b""
        while data := s.recv(65536):
            got += data
        return {"reply": got.decode(), "source_port": s.getsockname()[1]}


def client_hold(addr, port, source_addr, source_port):
    """Stays connected to an echo; SIGUSR1 makes it send and read something."""
    on_signal()
    with connect(addr, port, (source_addr, int(source_port))) as s:
        s.sendall(b"x")
        s.recv(1)
        say(event="held")
        if signal.sigtimedwait({signal.SIGUSR1}, DEADLINE_S * 4):
            s.sendall(b"still here")
            say(event="alive", ok=s.recv(100) == b"still here")
    return {}


def client_upload(addr, port, n_bytes):
    data = pattern(int(n_bytes))
    with connect(addr, port) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        reply = json.loads(s.makefile().read())
    return {"sent": len(data), "sha256": hashlib.sha256(data).hexdigest(), "server": reply}


def client_download(addr, port, pause_s="0"):
    on_signal()
    with connect(addr, port) as s:
        pause(pause_s)  # a slow reader is the case under test, not a wait for something
        n, digest = read_all(s)
    return {"n": n, "sha256": digest}


def client_ask_and_pause(addr, port, pause_s):
    """Ends its half, reads a little, then nothing for @pause_s, then everything."""
    with socket.socket(family_of(addr), socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        s.settimeout(DEADLINE_S)
        s.connect((addr, int(port)))
        s.sendall(b"x")
        s.shutdown(socket.SHUT_WR)
        first = s.recv(1000)
        time.sleep(float(pause_s))  # how long a reader may be busy with something else is what is asked for
        digest = hashlib.sha256(first)
        n = len(first)
        while data := s.recv(1 << 16):
            digest.update(data)
            n += len(data)
    return {"n": n, "sha256": digest.hexdigest()}


def client_read(addr, port):
    with connect(addr, port) as s:
        s.sendall(b"x")
        return {"got": s.recv(4096).decode(), "then": s.recv(4096).decode()}


def client_listen(addr, port):
    """Says nothing."""
    with connect(addr, port) as s:
        return how_it_ends(s)


def client_after_end(addr, port, n_bytes):
    """Sends only when the other side has ended its half."""
    with connect(addr, port) as s:
        got = how_it_ends(s)
        s.sendall(pattern(int(n_bytes), 8))
    return {"got": got, "sha256": hashlib.sha256(pattern(int(n_bytes), 8)).hexdigest()}


def client_abort(addr, port, n_bytes):
    """Sends and, once it has got everything off, resets the connection when SIGUSR1 comes."""
    on_signal()
    with connect(addr, port) as s:
        s.sendall(pattern(int(n_bytes)))
        signal.sigtimedwait({signal.SIGUSR1}, DEADLINE_S)
        end = time.monotonic() + DEADLINE_S
        while struct.unpack("i", fcntl.ioctl(s, termios.TIOCOUTQ, bytes(4)))[0]:
            assert time.monotonic() < end
            time.sleep(0.001)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return {"ok": True}


def client_hold_and_close(addr, port):
    """Connects; SIGUSR1 makes it close its half."""
    on_signal()
    with connect(addr, port) as s:
        say(event="held")
        both_close(s)
    return {}


def client_push(addr, port, n_bytes, still_s):
    """Sends until nothing has gone for @still_s, says how much that was, then sends the rest."""
    h, sent, stalled = hashlib.sha256(), 0, False
    with connect(addr, port) as s:
        for block in blocks(int(n_bytes)):
            h.update(block)
            view = memoryview(block)
            while view:
                if not select.select([], [s], [], float(still_s) if not stalled else DEADLINE_S)[1]:
                    assert not stalled
                    stalled = True
                    say(event="stalled", n=sent)
                    continue
                n = s.send(view, socket.MSG_DONTWAIT)
                view, sent = view[n:], sent + n
        s.shutdown(socket.SHUT_WR)
        reply = json.loads(s.makefile().read())
    return {"sha256": h.hexdigest(), "server": reply}


def client_idle(addr, port, idle_s):
    """Idle on a connection that both sides ask about; then an echo."""
    with connect(addr, port) as s:
        ask_every_second(s)
        time.sleep(float(idle_s))  # the silence is what is tested
        s.sendall(b"still here")
        return {"reply": s.recv(100).decode()}


def client_again(addr, port, source_addr, source_port, n):
    """Connections from one port, each as soon as the server has closed the one before."""
    good = 0
    end = time.monotonic() + DEADLINE_S
    while good < int(n):
        try:
            s = connect(addr, port, (source_addr, int(source_port)))
        except OSError as e:
            if e.errno != errno.EADDRNOTAVAIL or time.monotonic() > end:
                raise
            time.sleep(0.001)  # the last acknowledgement of the connection before is still on its way
            continue
        with s:
            s.sendall(b"hello")
            if how_it_ends(s)["n"] != 5:
                break
        good += 1
    return {"good": good}


def client_congestion(addr, port, name, n_bytes):
    """An upload and its answer with a congestion control of the client's choice."""
    h = hashlib.sha256()
    with socket.socket(family_of(addr), socket.SOCK_STREAM) as s:
        s.settimeout(DEADLINE_S)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        s.connect((addr, port))
        for block in blocks(int(n_bytes)):
            s.sendall(block)
            h.update(block)
        s.shutdown(socket.SHUT_WR)
        reply = json.loads(s.makefile().read())
        used = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
    return {"used": used, "sha256": h.hexdigest(), "server": reply}


def client_many(addr, port, n):
    n = int(n)
    raise_limit()
    socks = [connect(addr, port) for _ in range(n)]
    for i, s in enumerate(socks):
        s.sendall(b"%06d" % i)
    good = sum(s.recv(6, socket.MSG_WAITALL) == b"%06d" % i for i, s in enumerate(socks))
    for s in socks:
        s.close()
    return {"good": good}


def client_at_once(addr, port, n):
    """Connections that do not wait for each other."""
    raise_limit()
    socks = [socket.socket(family_of(addr), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(int(n))]
    for s in socks:
        if (e := s.connect_ex((addr, port))) != errno.EINPROGRESS:
            raise OSError(e, os.strerror(e))
    good = 0
    for i, s in enumerate(socks):
        s.settimeout(DEADLINE_S)
        select.select([], [s], [], DEADLINE_S)
        s.sendall(b"%06d" % i)
        good += s.recv(6, socket.MSG_WAITALL) == b"%06d" % i
    return {"good": good}


def client_crowd(addr, port, n):
    """Connections to an echo that stay until this is killed, five bytes each way through each."""
    raise_limit()
    socks = [connect(addr, port) for _ in range(int(n))]
    for s in socks:
        s.sendall(b"hello")
    good = sum(s.recv(5, socket.MSG_WAITALL) == b"hello" for s in socks)
    say(event="connected", good=good, ports=[s.getsockname()[1] for s in socks])
    time.sleep(DEADLINE_S * 4)  # at most: nobody waits for the end of it
    return {}


def client_sequence(addr, port, n, source_addr=None):
    good = 0
    for i in range(int(n)):
        with connect(addr, port, (source_addr, 0) if source_addr else None) as s:
            s.sendall(b"%06d" % i)
            good += s.recv(6, socket.MSG_WAITALL) == b"%06d" % i
    return {"good": good}


def client_udp(addr, port, n_bytes="5", timeout_s="15", source_port="0"):
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    if int(source_port):
        s.bind(("", int(source_port)))
    s.settimeout(float(timeout_s))
    data = pattern(int(n_bytes))
    s.sendto(data, where(addr, port))
    got, peer = s.recvfrom(65536)
    return {"same": got == data, "n": len(got), "peer": peer[0], "peer_port": peer[1],
            "source_port": s.getsockname()[1]}


def client_dns(addr, port, proto="udp", timeout_s="15"):
    q = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\7example\0\0\1\0\1"
    if proto == "udp":
        s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
        s.settimeout(float(timeout_s))
        s.sendto(q, (addr, port))
        a = s.recvfrom(4096)[0]
    else:
        s = connect(addr, port)
        s.sendall(struct.pack("!H", len(q)) + q)
        a = s.recv(struct.unpack("!H", s.recv(2, socket.MSG_WAITALL))[0], socket.MSG_WAITALL)
    return {"address": socket.inet_ntoa(a[-4:])}


def udp_from_elsewhere(addr, port, n_bytes):
    """Sends one datagram to (addr, port) from a fresh socket: somebody the receiver never wrote to."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.sendto(pattern(int(n_bytes)), (addr, int(port)))
    say(source_port=s.getsockname()[1])


def udp_listen_twice(relay_addr, relay_port):
    """Sends to an echo and then waits for a second datagram from anybody: endpoint-independent filtering."""
    s = socket.socket(family_of(relay_addr), socket.SOCK_DGRAM)
    s.settimeout(10)
    s.sendto(b"first", (relay_addr, int(relay_port)))
    s.recvfrom(65536)
    say(event="first")
    data, peer = s.recvfrom(65536)
    say(event="second", peer=peer[0], port=peer[1], n=len(data))


def client_udp_connected(addr, port, timeout_s="15"):
    """What a connected socket hears after sending: an answer, or the error that an ICMP message brought."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.settimeout(float(timeout_s))
    if ":" in addr:
        s.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR: errors that are not fatal, too
    else:
        s.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    s.connect((addr, port))
    s.send(b"anybody there?")
    return {"n": len(s.recv(65536))}


def client_udp_many(addr, port, n, size, family_source="", timeout_s="5"):
    """Datagrams of one size, all under way at once; how many come back, as they were."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.settimeout(float(timeout_s))
    sent = [pattern(int(size), seed=i) for i in range(int(n))]
    for data in sent:
        s.sendto(data, (addr, port))
    got = []
    while len(got) < len(sent):
        try:
            got.append(s.recvfrom(65536)[0])
        except socket.timeout:
            break
    left = collections.Counter(sent)
    left.subtract(got)
    return {"n": len(got), "good": len(got) - sum(-n for n in left.values() if n < 0)}


def client_udp_segments(addr, port, n, size, source_port=0):
    """One send of n datagrams of one size (UDP_SEGMENT), the last one shorter; what comes back."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.bind(("", int(source_port)))
    s.settimeout(5)
    s.setsockopt(socket.IPPROTO_UDP, 103, int(size))
    data = pattern(int(n) * int(size) - 7)
    s.sendto(data, (addr, port))
    got = [s.recvfrom(65536)[0] for _ in range(int(n))]
    # A sender that moves to another CPU may be overtaken on its way (veth).
    same = sorted(got) == sorted(data[i:i + int(size)] for i in range(0, len(data), int(size)))
    return {"same": same, "sizes": sorted({len(d) for d in got})}


def client_udp_ports(addr, port, n, hold="1"):
    """Sends from n ports at once, a batch of sockets after the other, again from those that were not answered; how many
    were."""
    raise_limit()
    answered, left, batch = 0, int(n), 500
    while left > 0:
        socks = [socket.socket(family_of(addr), socket.SOCK_DGRAM) for _ in range(min(batch, left))]
        poll = select.poll()
        for s in socks:
            poll.register(s, select.POLLIN)
        waiting = {s.fileno(): s for s in socks}
        for _ in range(5):
            for s in waiting.values():
                s.sendto(b"x", (addr, port))
            while waiting and (events := poll.poll(1000)):
                for fd, _ in events:
                    waiting.pop(fd).recv(100)
                    poll.unregister(fd)
                    answered += 1
        left -= len(socks)
        for s in socks:
            s.close()
    return {"answered": answered}


def client_udp_spray(addr, port, n):
    """Sends one datagram to each of n ports of an address, from one socket."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    for i in range(int(n)):
        try:
            s.sendto(b"x", (addr, 1024 + i % 60000))
        except OSError:
            pass  # what came back for an earlier one
    return {"sent": int(n)}


def client_dns_load(addr, port, n, at_once):
    """n questions, each from a socket of its own, some at a time; how many were answered, and how fast."""
    raise_limit()
    poll = select.poll()
    waiting, asked, answered, start = {}, 0, 0, time.monotonic()
    while answered < int(n):
        while asked < int(n) and len(waiting) < int(at_once):
            s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
            s.sendto(struct.pack("!H", asked & 0xffff) + b"\1\0\0\1\0\0\0\0\0\0\7example\0\0\1\0\1", (addr, port))
            waiting[s.fileno()] = (s, asked & 0xffff)
            poll.register(s, select.POLLIN)
            asked += 1
        events = poll.poll(3000)
        if not events:
            break
        for fd, _ in events:
            s, number = waiting.pop(fd)
            poll.unregister(fd)
            answered += s.recv(512)[:2] == struct.pack("!H", number)
            s.close()
    return {"answered": answered, "per_second": answered / (time.monotonic() - start)}


def client_ttl(addr, port, ttl, timeout_s="15"):
    """A datagram with a small TTL: who says that its time is over (or nobody)."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
    s.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    s.sendto(b"x", (addr, port))
    if not select.select([s], [], [], float(timeout_s))[0]:
        return {"offender": None}
    try:
        _, control, _, _ = s.recvmsg(100, 512, 0x2000)  # MSG_ERRQUEUE
    except BlockingIOError:
        return {"answer": s.recv(100).decode()}
    data = control[0][2]
    return {"type": data[5], "code": data[6], "offender": socket.inet_ntoa(data[20:24])}


def udp_ttl(addr, port):
    """Tells the TTL of what comes."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.bind((addr, int(port)))
    s.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
    say(event="ready")
    while True:
        _, control, _, _ = s.recvmsg(65536, 512)
        say(event="datagram", ttl=struct.unpack("i", control[0][2])[0])


def udp_echo_many(addr, port):
    """Echoes in silence."""
    s = socket.socket(family_of(addr), socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.bind((addr, int(port)))
    say(event="ready")
    while True:
        s.sendto(*s.recvfrom(65536))


def raw_udp(interface, gateway_mac, dst, port, seconds="1.5"):
    """A datagram addressed to @dst by hand; what comes back: an answer (and from whom), ICMP or nothing."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((interface, 0))
    mac, v6 = s.getsockname()[4], ":" in dst
    udp = struct.pack("!HHHH", 43211, int(port), 13, 0) + b"hello"
    s.send(make_frame(mac, "fd00::1234" if v6 else "10.0.2.100", dst, 17, udp, gateway_mac))
    end = time.monotonic() + float(seconds)
    answer = {"answer": "nothing"}
    while (left := end - time.monotonic()) > 0 and select.select([s], [], [], left)[0]:
        f = s.recv(2048)
        if f[6:12] == mac:
            continue
        l4 = 54 if f[12:14] == b"\x86\xdd" else 34
        proto = f[20] if l4 == 54 else f[23]
        if proto == 17 and f[l4 + 2:l4 + 4] == struct.pack("!H", 43211):
            answer = {"answer": "udp", "source": socket.inet_ntop(family_of(dst), f[22:38] if v6 else f[26:30])}
            break
        if proto in (1, 58) and f[l4] in (1, 3):
            answer = {"answer": "icmp"}
            break
    say(**answer)


def raw_frames(interface, seed, count):
    """Hostile frames out of an interface."""
    import random
    rnd = random.Random(int(seed))
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    mac = s.getsockname()[4]
    gateway = b"\x52\x55\x0a\x00\x02\x02"
    for i in range(int(count)):
        kind = i % 8
        n = rnd.randrange(0, 200)
        body = bytes(rnd.getrandbits(8) for _ in range(n))
        ether = gateway + mac
        ip = bytearray(b"\x45\0\0\0\0\0\0\0\x40\x06\0\0\x0a\0\2\x64\x0a\0\2\2")
        if kind == 0:
            frame = body
        elif kind == 1:
            frame = ether + b"\x08\x00" + body
        elif kind == 2:
            frame = ether + b"\x86\xdd" + body
        elif kind == 3:
            frame = ether + b"\x08\x06" + body
        else:
            ip[9] = [6, 17, 1, rnd.randrange(256)][kind - 4]
            if rnd.random() < 0.5:
                ip[0] = 0x40 | rnd.randrange(16)
            struct.pack_into("!H", ip, 2, rnd.choice([20 + n, n, 65535, 20 + n // 2]))
            if rnd.random() < 0.3:
                struct.pack_into("!H", ip, 6, rnd.getrandbits(16))
            struct.pack_into("!H", ip, 10, checksum(bytes(ip)))
            frame = ether + b"\x08\x00" + bytes(ip) + body
        try:
            s.sendto(frame.ljust(14, b"\0")[:1500], (interface, 0))
        except OSError as e:
            if e.errno not in (errno.ENOBUFS, errno.EINVAL, errno.EMSGSIZE):
                raise
    say(sent=int(count))


def raw_syn(interface, gateway_mac, dst, port, seconds="1.5"):
    """A SYN addressed to @dst by hand (no routing, no martian check); what comes back: SYN-ACK, RST, ICMP or nothing."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((interface, 0))
    mac, v6 = s.getsockname()[4], ":" in dst
    s.send(make_frame(mac, "fd00::1234" if v6 else "10.0.2.100", dst, 6, tcp_header(43210, int(port), 2), gateway_mac))
    end = time.monotonic() + float(seconds)
    answer = "nothing"
    while (left := end - time.monotonic()) > 0 and select.select([s], [], [], left)[0]:
        f = s.recv(2048)
        if f[6:12] == mac or f[:6] != mac:
            continue
        l4 = 54 if f[12:14] == b"\x86\xdd" else 34
        proto = f[20] if l4 == 54 else f[23]
        if proto == 6 and f[l4:l4 + 2] == struct.pack("!H", int(port)):
            answer = "rst" if f[l4 + 13] & 4 else "syn-ack"
            break
        if proto in (1, 58) and f[l4] in (1, 3):
            answer = "icmp"
            break
    say(answer=answer)


def arp_query(interface, target, seconds="1"):
    """Who has @target? Prints the MAC address of the answer, or null."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    s.bind((interface, 0))
    mac = s.getsockname()[4]
    s.send(b"\xff" * 6 + mac + b"\x08\x06" + b"\0\1\x08\0\6\4\0\1" + mac + socket.inet_aton("10.0.2.100") +
           b"\0" * 6 + socket.inet_aton(target))
    end = time.monotonic() + float(seconds)
    while (left := end - time.monotonic()) > 0 and select.select([s], [], [], left)[0]:
        f = s.recv(2048)
        if f[20:22] == b"\0\2" and f[28:32] == socket.inet_aton(target):
            say(mac=":".join("%02x" % b for b in f[22:28]))
            return
    say(mac=None)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def make_frame(mac, src, dst, proto, l4, gateway_mac=None):
    """An Ethernet frame with an IP packet to @gateway_mac, or to libslirp's own; @l4 has its checksum field at 0 (TCP:
    16, UDP: 6)."""
    v6 = ":" in dst
    to = bytes.fromhex((gateway_mac or ("52:56:00:00:00:02" if v6 else "52:55:0a:00:02:02")).replace(":", ""))
    src_b, dst_b = (socket.inet_pton(family_of(dst), a) for a in (src, dst))
    pseudo = src_b + dst_b + (struct.pack("!IHBB", len(l4), 0, 0, proto) if v6 else struct.pack("!BBH", 0, proto, len(l4)))
    at = {6: 16, 17: 6}[proto]
    l4 = l4[:at] + struct.pack("!H", checksum(pseudo + l4) or 0xffff) + l4[at + 2:]
    if v6:
        ip = struct.pack("!IHBB", 0x60000000, len(l4), proto, 64) + src_b + dst_b
        return to + mac + b"\x86\xdd" + ip + l4
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0, 64, proto, 0) + src_b + dst_b
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return to + mac + b"\x08\0" + ip + l4


def tcp_header(source_port, port, flags, seq=1000, ack=0, window=65535):
    return struct.pack("!HHIIBBHHH", source_port, port, seq, ack, 0x50, flags, window, 0, 0)


def raw_sweep(interface, port, source4, *destinations):
    """A SYN and a datagram to each destination, by hand: no routing of the guest's stands in between."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    mac = s.getsockname()[4]
    for i, dst in enumerate(destinations):
        src = "fd00::1234" if ":" in dst else source4
        udp = struct.pack("!HHHH", 42000 + i, int(port), 8 + 5, 0) + b"sweep"
        s.send(make_frame(mac, src, dst, 6, tcp_header(42000 + i, int(port), 2)))
        s.send(make_frame(mac, src, dst, 17, udp))
    say(sent=len(destinations))


def raw_fragments6(interface, dst, port, *headers):
    """A datagram of 64 bytes in two fragments, with the named headers after the fragment header ("options": destination
    options, "fragment": that of a whole, "part": that of a first one)."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    whole = make_frame(s.getsockname()[4], "fd00::1234", dst, 17, struct.pack("!HHHH", 42000, int(port), 8 + 64, 0) +
                       pattern(64))
    ethernet, addresses, rest, proto = whole[:14], whole[22:54], whole[54:], 17
    kinds = {"options": (60, b"\0\1\4\0\0\0\0"), "fragment": (44, b"\0\0\0\0\0\0\7"), "part": (44, b"\0\0\1\0\0\0\7")}
    for header in reversed(headers):
        rest = bytes([proto]) + kinds[header][1] + rest
        proto = kinds[header][0]
    for offset, part in ((0, rest[:48]), (48, rest[48:])):
        fragment = struct.pack("!BBHI", proto, 0, offset | (offset == 0), 0x12345678) + part
        s.send(ethernet + struct.pack("!IHBB", 0x60000000, len(fragment), 44, 64) + addresses + fragment)
    say(sent=2)


def client_source(addr, port, proto):
    """What address does the echo see? It is the server that says it; here only that the way works."""
    if proto == "tcp":
        return client_echo(addr, port, "x")
    return client_udp(addr, port)


def client_rate(addr, port, seconds):
    """How many bytes a second come, after a moment for the connection to get going."""
    buffer = bytearray(1 << 20)
    with connect(addr, port) as s:
        n, begin = 0, None
        while True:
            size = s.recv_into(buffer)
            if not size:
                raise OSError(errno.ECONNRESET, "the source ended")
            now = time.monotonic()
            if begin is None:
                first = now
                begin = now + 0.2
            if now >= begin:
                n += size
            if now - first >= float(seconds) + 0.2:
                return {"rate": n / float(seconds)}


def tcp_source_endless(addr, port):
    block = pattern(1 << 20)

    def handler(c, peer):
        while True:
            c.sendall(block)
    serve_tcp(addr, port, handler)


def main(args):
    """Does not return."""
    what = globals().get(args[0])
    if not what:
        import attacks

        what = getattr(attacks, args[0])
    what(*args[1:])
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
