# SPDX-License-Identifier: GPL-2.0-or-later
"""The API socket and port forwards, as in COMPAT's table; replies are compared as bytes where clients see them."""

import fcntl
import json
import os
import signal
import stat
import struct
import termios
import time

import pytest
from harness import DEADLINE_S, GATEWAY4, GUEST4, HOST4, HOST6, REMOTE4, REMOTE6, wait_for
from test_tcp import SIZE, start


def bad(text):
    return json.dumps({"error": {"desc": f"bad request: {text}"}}, separators=(",", ":")).encode()


def add(**arguments):
    return json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode()


GOOD = {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080, "guest_addr": GUEST4, "guest_port": 80}


def test_replies_have_their_known_bytes(world):
    slirp = world.start(api=True)
    assert slirp.api_raw(add(**GOOD)) == b'{"return":{"id":1}}'
    assert slirp.api_raw(add(**{**GOOD, "proto": "udp"})) == b'{"return":{"id":2}}'
    assert slirp.api_raw(b'{"execute":"remove_hostfwd","arguments":{"id":1}}') == b'{"return":{}}'
    assert slirp.api_raw(add(**GOOD)) == b'{"return":{"id":3}}'  # ids are never used again


def test_list_has_the_known_keys_in_order_of_adding(world):
    slirp = world.start(api=True)
    slirp.api_raw(add(**GOOD))
    slirp.api_raw(add(**{**GOOD, "proto": "udp", "host_port": 5353, "guest_port": 53, "host_addr": "127.0.0.1"}))
    entries = slirp.api("list_hostfwd")["entries"]
    keys = ("id", "proto", "host_addr", "host_port", "guest_addr", "guest_port")
    assert [tuple(e[k] for k in keys) for e in entries] == [
        (1, "tcp", "0.0.0.0", 8080, GUEST4, 80), (2, "udp", "127.0.0.1", 5353, GUEST4, 53)]


@pytest.mark.extension
def test_list_has_both_documented_and_real_shape(world):
    slirp = world.start(api=True)
    slirp.api_raw(add(**GOOD))
    reply = slirp.api("list_hostfwd")
    assert reply["return"]["entries"] == reply["entries"] and len(reply["entries"]) == 1


@pytest.mark.parametrize("missing", [{}, {"host_addr": "", "guest_addr": ""}])
def test_defaults(world, missing):
    slirp = world.start(api=True)
    slirp.api_raw(add(proto="tcp", host_port=8080, guest_port=80, **missing))
    entry = slirp.api("list_hostfwd")["entries"][0]
    assert (entry["host_addr"], entry["guest_addr"]) == ("0.0.0.0", GUEST4)


@pytest.mark.parametrize(("request_bytes", "text"), [
    (b"", "cannot parse JSON"),
    (b"{", "cannot parse JSON"),
    (b"x", "cannot parse JSON"),
    (b'{"execute":"list_hostfwd","execute":"list_hostfwd"}', "cannot parse JSON"),
    (b"[]", "json_object() failed"),
    (b'{"x":1}', "no execute found"),
    (b'{"execute":7}', "no execute found"),
    (b'{"execute":"nonsense"}', "unknown execute"),
    (add(**{**GOOD, "proto": "sctp"}), "add_hostfwd: bad arguments.proto"),
    (add(**{**GOOD, "proto": "TCP"}), "add_hostfwd: bad arguments.proto"),
    (add(**{**GOOD, "host_addr": "localhost"}), "add_hostfwd: bad arguments.host_addr"),
    (add(**{**GOOD, "host_port": 0}), "add_hostfwd: bad arguments.host_port"),
    (add(**{**GOOD, "host_port": "80"}), "add_hostfwd: bad arguments.host_port"),
    (add(**{**GOOD, "guest_port": 0}), "add_hostfwd: bad arguments.guest_port"),
    (add(**{**GOOD, "guest_addr": "x"}), "add_hostfwd: bad arguments.guest_addr"),
    (b'{"execute":"remove_hostfwd","arguments":{}}', "remove_hostfwd: bad arguments.id"),
    (b'{"execute":"remove_hostfwd"}', "remove_hostfwd: bad arguments.id"),
    (b'{"execute":"remove_hostfwd","arguments":{"id":99}}', "remove_hostfwd: bad arguments.id"),
])
def test_errors_have_their_known_bytes(world, request_bytes, text):
    slirp = world.start(api=True)
    assert slirp.api_raw(request_bytes) == bad(text)
    assert slirp.api("list_hostfwd")["entries"] == []


@pytest.mark.parametrize(("request_bytes", "text"), [
    (add(**{**GOOD, "host_addr": "198.51.100.1"}), "add_hostfwd: slirp_add_hostfwd failed"),
])
def test_errors_of_the_system_begin_with_the_known_text(world, request_bytes, text):
    slirp = world.start(api=True)
    assert slirp.api_raw(request_bytes).startswith(bad(text)[:-3])


def test_arguments_are_checked_in_the_known_order(world):
    slirp = world.start(api=True)
    wrong = {"proto": "x", "host_addr": "x", "host_port": 0, "guest_addr": "x", "guest_port": 0}
    right = {**GOOD}
    for key in ("proto", "host_addr", "host_port", "guest_addr", "guest_port"):
        assert slirp.api_raw(add(**wrong)) == bad(f"add_hostfwd: bad arguments.{key}")
        wrong[key] = right[key]


@pytest.mark.reference_bug("crashes")
@pytest.mark.parametrize("arguments", [b"{}", b'{"host_port":80,"guest_port":80}', b'{"proto":7}', b"[]", b"7"])
def test_a_missing_proto_is_an_error(world, arguments):
    slirp = world.start(api=True)
    assert slirp.api_raw(b'{"execute":"add_hostfwd","arguments":' + arguments + b"}") == \
        bad("add_hostfwd: bad arguments.proto")
    assert slirp.process.poll() is None


@pytest.mark.reference_bug("cuts numbers without a word")
@pytest.mark.parametrize(("key", "value"), [("host_port", 83622), ("host_port", -1), ("host_port", 80.5),
                                            ("guest_port", 65536), ("guest_port", 1e300)])
def test_ports_that_are_none_are_errors(world, key, value):
    slirp = world.start(api=True)
    assert slirp.api_raw(add(**{**GOOD, key: value})) == bad(f"add_hostfwd: bad arguments.{key}")


@pytest.mark.extension
def test_a_busy_port_is_named_with_the_reason(world):
    slirp = world.start(api=True)
    slirp.api_raw(add(**GOOD))
    reply = slirp.api_raw(add(**GOOD)).decode()
    assert "8080" in reply and "in use" in reply


def test_a_busy_port_is_an_error(world):
    slirp = world.start(api=True)
    world.host.peer("tcp_echo", "0.0.0.0", 8080)
    assert slirp.api_raw(add(**GOOD)).startswith(bad("add_hostfwd: slirp_add_hostfwd failed")[:-3])


# ---- framing ----

def test_no_shutdown_is_needed_for_a_reply(world):
    slirp = world.start(api=True)
    assert slirp.api_raw(add(**GOOD), shut=False) == b'{"return":{"id":1}}'


def test_a_newline_after_the_request_is_fine(world):
    slirp = world.start(api=True)
    assert json.loads(slirp.api_raw(b'{"execute":"list_hostfwd"}\n'))["entries"] == []


@pytest.mark.reference_bug("reads once")
def test_a_request_may_come_in_pieces(world):
    slirp = world.start(api=True)
    with slirp.api_connect() as s:
        for byte in add(**GOOD):
            s.send(bytes([byte]))
            time.sleep(0.001)  # pieces: the pause is the case under test
        assert s.recv(4096) == b'{"return":{"id":1}}'


@pytest.mark.reference_bug("takes less than 4096 bytes")
def test_long_requests(world):
    slirp = world.start(api=True)
    padding = "x" * 30000
    assert slirp.api_raw(json.dumps({"padding": padding, **json.loads(add(**GOOD))}).encode()) == b'{"return":{"id":1}}'


def test_too_long_requests_are_refused(world):
    slirp = world.start(api=True)
    assert slirp.api_raw(b'{"x":"' + b"x" * (1 << 17)).startswith(bad("too large message")[:-2])
    assert slirp.api("list_hostfwd")["entries"] == []


@pytest.mark.extension
def test_many_requests_on_one_connection(world):
    slirp = world.start(api=True)
    requests = [add(**{**GOOD, "host_port": 8000 + i}) for i in range(50)]
    replies = slirp.api_raw(b"".join(r + b"\n" for r in requests)).split(b"\n")
    assert [json.loads(r)["return"]["id"] for r in replies if r] == list(range(1, 51))


@pytest.mark.reference_bug("a silent client holds everybody up")
def test_silent_clients_hold_nobody_up(world):
    slirp = world.start(api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    silent = [slirp.api_connect() for _ in range(30)]
    begin = time.monotonic()
    assert slirp.api("list_hostfwd")["entries"] == []
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert time.monotonic() - begin < 9
    for s in silent:
        s.close()


LIST_AND_STAY = b'{"execute":"list_hostfwd","keep_alive":true}\n'


def unread(s):
    return struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, bytes(4)))[0]


def answered_without_reading(s, n, seconds=DEADLINE_S):
    """Asks up to @n times, each time when all of the answer before has come; how many answers came."""
    for i in range(n):
        before = unread(s)
        s.sendall(LIST_AND_STAY)
        try:
            wait_for("an answer", lambda: unread(s) > before, seconds)
        except AssertionError:
            return i
    return n


@pytest.mark.extension
def test_clients_that_take_no_answers_do_not_keep_their_places(world):
    """They have all places, and no room for the next answer; who comes then is served when their time is over."""
    slirp = world.start(api=True)
    for i in range(10):
        reply = slirp.api("add_hostfwd", proto="udp", host_addr="", host_port=10000 + 100 * i,
                          host_port_end=10009 + 100 * i, guest_addr="", guest_port=10000)
        assert "return" in reply, reply
    deaf = []
    n = 1000
    for _ in range(64):
        deaf.append(slirp.api_connect())
        if len(deaf) == 1:
            n = answered_without_reading(deaf[0], n, 5)
            assert 0 < n < 1000
        else:
            assert answered_without_reading(deaf[-1], n) == n
            deaf[-1].sendall(LIST_AND_STAY)
    assert len(slirp.api("list_hostfwd")["entries"]) == 10
    for s in deaf:
        s.close()


def test_the_socket_is_for_its_owner(world):
    slirp = world.start(api=True)
    mode = os.stat(slirp.api_path).st_mode
    assert stat.S_ISSOCK(mode) and not mode & 0o022


def test_an_old_socket_file_is_replaced(world):
    path = world.work / "old.sock"
    path.write_text("in the way")
    os.chmod(path, 0o666)
    slirp = world.start(api_path=path)
    assert slirp.api("list_hostfwd")["entries"] == []


@pytest.mark.extension
def test_statistics(world):
    slirp = world.start(api=True)
    stats = slirp.api("stats")["return"]
    assert stats["backend"] in ("io_uring", "epoll") and stats["threads"] in ("split", "shared")
    world.guest.run("ping", "-c3", "-i0.2", GATEWAY4)
    wait_for("they are counted", lambda: slirp.api("stats")["return"]["rx_frames"] >= stats["rx_frames"] + 3)


# ---- TCP forwards ----

@pytest.mark.parametrize("host_addr", ["", "0.0.0.0", HOST4])
def test_a_remote_client_is_seen_with_its_own_address(world, host_addr):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80, host_addr)
    server = world.guest.peer("tcp_echo", GUEST4, 80)
    r = world.remote.client("echo", HOST4, 8080, "hello")
    assert r["reply"] == "hello"
    assert (lambda e: (e["peer"], e["port"]))(server.event("accepted")) == (REMOTE4, r["source_port"])


@pytest.mark.parametrize("host_addr", ["", "127.0.0.1"])
@pytest.mark.parametrize("args", [[], ["--disable-host-loopback"]])
def test_a_loopback_client_is_seen_as_the_gateway(world, host_addr, args):
    slirp = world.start(*args, api=True)
    slirp.forward("tcp", 8080, 80, host_addr)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    r = world.host.client("echo", "127.0.0.1", 8080, "hello")
    assert r["reply"] == "hello"
    assert server.event("accepted")["peer"] == GATEWAY4


def test_the_hosts_own_address_is_seen_as_it_is(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.host.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == HOST4


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_bulk_through_a_forward_arrives_unchanged(world, mtu):
    slirp = world.start(f"--mtu={mtu}", api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_sink", "0.0.0.0", 80)
    r = world.remote.client("upload", HOST4, 8080, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}


@pytest.mark.parametrize("pause", [0, 1.0])
def test_bulk_from_a_forward_arrives_unchanged(world, pause):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_source", "0.0.0.0", 80, SIZE)
    direct = world.guest.client("download", "127.0.0.1", 80)
    r = world.remote.client("download", HOST4, 8080, pause)
    assert (r["n"], r["sha256"]) == (SIZE, direct["sha256"])


def test_a_closed_port_of_the_guest_ends_the_connection(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    r = world.remote.client("echo", HOST4, 8080, "hello")
    assert r.get("reply") == "" or r.get("errno") in ("ECONNRESET", "EPIPE", "ENOTCONN")


def test_a_server_that_appears_later_is_found(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.remote.client("connect", HOST4, 8080)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"


def test_a_reset_of_the_guests_server_is_a_reset(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_reset", "0.0.0.0", 80)
    r = world.remote.client("read", HOST4, 8080)
    assert r.get("errno") == "ECONNRESET" or r.get("got") == ""


def test_removing_a_forward_keeps_its_connections(world):
    slirp = world.start(api=True)
    ident = slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_source", "0.0.0.0", 80, 30_000_000)
    download = world.remote.begin("client", "download", HOST4, 8080, "signal")
    # Before, it may still stand in the backlog of the socket that will be closed.
    wait_for("the connection is there", lambda: world.guest.run("ss", "-Htn", "state", "established", "sport", "=",
                                                                ":80").stdout)
    assert "return" in slirp.api("remove_hostfwd", id=ident)
    assert world.remote.client("connect", HOST4, 8080)["errno"] == "ECONNREFUSED"
    download.process.send_signal(signal.SIGUSR1)
    r = download.result()
    assert r.get("n") == 30_000_000, r


@pytest.mark.reference_bug("its listening sockets have a backlog of 1")
def test_a_hundred_connections_through_a_forward(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("many", HOST4, 8080, 100)["good"] == 100


def test_only_the_address_that_was_asked_for_is_bound(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80, "127.0.0.1")
    assert world.remote.client("connect", HOST4, 8080)["errno"] == "ECONNREFUSED"


@pytest.mark.extension
@pytest.mark.parametrize(("host_addr", "connect_to", "seen"), [("::", HOST6, REMOTE6), (HOST6, HOST6, REMOTE6)])
def test_ipv6_forwards(world, host_addr, connect_to, seen):
    slirp = start_api6(world)
    guest6 = guest_address6(world)
    slirp.forward("tcp", 8080, 80, host_addr, guest6)
    server = world.guest.peer("tcp_echo", "::", 80)
    assert world.remote.client("echo", connect_to, 8080, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == seen


def start_api6(world):
    world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
    slirp = world.start("--enable-ipv6", api=True)
    wait_for("an IPv6 address", lambda: guest_address6(world))
    return slirp


def guest_address6(world):
    return next((a["local"] for link in world.guest.ip_json("-6", "addr", "show", "dev", "tap0", "scope", "global")
                 for a in link.get("addr_info", [])), None)


@pytest.mark.extension
def test_a_thousand_forwards(world):
    slirp = world.start(api=True)
    with slirp.api_connect() as s:
        s.sendall(b"".join(add(**{**GOOD, "host_port": 10000 + i}) + b"\n" for i in range(1000)))
        lines = b""
        while lines.count(b"\n") < 1000:
            piece = s.recv(65536)
            if not piece:
                break
            lines += piece
    assert lines.count(b'"return"') == 1000
    assert len(slirp.api("list_hostfwd")["entries"]) == 1000


@pytest.mark.extension
def test_a_range_of_ports(world):
    slirp = world.start(api=True)
    reply = slirp.api("add_hostfwd", proto="tcp", host_addr="", host_port=8000, host_port_end=8004, guest_addr="",
                      guest_port=9000)
    assert "return" in reply, reply
    world.guest.peer("tcp_echo", "0.0.0.0", 9003)
    assert world.remote.client("echo", HOST4, 8003, "hello")["reply"] == "hello"
    slirp.api("remove_hostfwd", id=reply["return"]["id"])
    assert world.remote.client("connect", HOST4, 8003)["errno"] == "ECONNREFUSED"


# ---- UDP forwards ----

@pytest.mark.parametrize("size", [1, 1472, 9000])
def test_udp_forward_shows_the_clients_address(world, size):
    slirp = world.start(api=True)
    slirp.forward("udp", 5353, 53)
    server = world.guest.peer("udp_echo", "0.0.0.0", 53)
    wait_for("the guest is known", lambda: world.guest.run("ping", "-c1", GATEWAY4).returncode == 0)
    r = world.remote.client("udp", HOST4, 5353, size)
    assert r["same"] and (r["peer"], r["peer_port"]) == (HOST4, 5353)
    assert (lambda e: (e["peer"], e["port"]))(server.event("datagram")) == (REMOTE4, r["source_port"])


def test_udp_forward_shows_loopback_clients_as_the_gateway(world):
    slirp = world.start(api=True)
    slirp.forward("udp", 5353, 53, "127.0.0.1")
    server = world.guest.peer("udp_echo", "0.0.0.0", 53)
    assert world.host.client("udp", "127.0.0.1", 5353, 100)["same"]
    assert server.event("datagram")["peer"] == GATEWAY4


@pytest.mark.reference_bug("refuses the replies")
def test_udp_forward_from_loopback_works_under_disable_host_loopback(world):
    slirp = world.start("--disable-host-loopback", api=True)
    slirp.forward("udp", 5353, 53)
    world.guest.peer("udp_echo", "0.0.0.0", 53)
    assert world.host.client("udp", "127.0.0.1", 5353, 100)["same"]


@pytest.mark.reference_bug("loopback clients never work again")
def test_udp_forward_serves_loopback_after_remote_clients(world):
    slirp = world.start(api=True)
    slirp.forward("udp", 5353, 53)
    world.guest.peer("udp_echo", "0.0.0.0", 53)
    for _ in range(2):
        assert world.remote.client("udp", HOST4, 5353, 10)["same"]
        assert world.host.client("udp", "127.0.0.1", 5353, 10)["same"]


@pytest.mark.reference_bug("answers from the socket that was added last")
def test_two_udp_forwards_to_one_port_answer_from_their_own(world):
    slirp = world.start(api=True)
    slirp.forward("udp", 5353, 53)
    slirp.forward("udp", 5354, 53)
    world.guest.peer("udp_echo", "0.0.0.0", 53)
    for port in (5353, 5354):
        r = world.remote.client("udp", HOST4, port, 10)
        assert r["same"] and r["peer_port"] == port


@pytest.mark.extension
def test_udp_forward_by_ipv6(world):
    slirp = start_api6(world)
    slirp.forward("udp", 5353, 53, "::", guest_address6(world))
    server = world.guest.peer("udp_echo", "::", 53)
    assert world.remote.client("udp", HOST6, 5353, 1200)["same"]
    assert server.event("datagram")["peer"] == REMOTE6


def test_removing_a_udp_forward_closes_its_port(world):
    slirp = world.start(api=True)
    ident = slirp.forward("udp", 5353, 53)
    world.guest.peer("udp_echo", "0.0.0.0", 53)
    assert world.remote.client("udp", HOST4, 5353, 10)["same"]
    slirp.api("remove_hostfwd", id=ident)
    assert "errno" in world.remote.client("udp", HOST4, 5353, 10, 1)


def test_podmans_way_of_reading(world):
    """One request, the writing side closed, one read of 2048 bytes."""
    slirp = world.start("--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
                        "--enable-ipv6", api=True)
    with slirp.api_connect() as s:
        s.sendall(add(proto="tcp", host_addr="", host_port=8080, guest_addr="", guest_port=80))
        s.shutdown(1)
        assert s.recv(2048) == b'{"return":{"id":1}}'
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
