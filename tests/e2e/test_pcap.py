# SPDX-License-Identifier: GPL-2.0-or-later
"""--pcap: the frames of the TAP, read by tshark."""

import os
import shutil
import stat
import subprocess

import pytest
from harness import GATEWAY4, GUEST4, PROGRAM_ARGS, REMOTE4, wait_for
from test_divert import start as start_diverting
from test_tcp import SIZE

NO_DIVERT = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
CONFINED = ["--enable-sandbox", "--enable-seccomp"]
pytestmark = [pytest.mark.extension,
              pytest.mark.skipif(not shutil.which("tshark"), reason="there is no tshark (package tshark)")]

FIELDS = ["frame.number", "frame.time_epoch", "frame.interface_name", "frame.comment", "frame.len",
          "frame.packet_flags_direction", "_ws.col.Protocol", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "tcp.flags",
          "tcp.seq_raw", "tcp.ack_raw", "icmp.type", "icmp.seq", "_ws.malformed"]
INBOUND, OUTBOUND = "0x00000001", "0x00000002"


def tshark(path, *args):
    done = subprocess.run(["tshark", "-n", "-r", str(path), *args], capture_output=True, text=True, timeout=60,
                          check=False, env={**os.environ, "HOME": "/nonexistent"})
    assert done.returncode == 0 and "cut short" not in done.stderr, done.stderr
    return done.stdout


def read(path, display=""):
    args = [arg for field in FIELDS for arg in ("-e", field)]
    text = tshark(path, "-T", "fields", "-E", "separator=|", *args, *(["-Y", display] if display else []))
    frames = [dict(zip(FIELDS, line.split("|"))) for line in text.splitlines()]
    assert not any(frame["_ws.malformed"] for frame in frames)
    return frames


def capture(world, name="guest.pcapng"):
    return world.work / name


@pytest.mark.parametrize("args", [[], CONFINED])
def test_both_directions_with_nanoseconds(world, args):
    path = capture(world)
    slirp = world.start(f"--pcap={path}", *args, exit_fd=True)
    for _ in range(3):  # in one run the next question need not wait for the answer
        world.guest.run("ping", "-c1", GATEWAY4)
    slirp.send_exit()
    assert slirp.wait() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    frames = read(path, "icmp")
    assert [(f["icmp.type"], f["icmp.seq"]) for f in frames] == [(t, "1") for _ in range(3) for t in ("8", "0")]
    assert {f["frame.packet_flags_direction"] for f in frames if f["icmp.type"] == "8"} == {OUTBOUND}
    assert {f["frame.packet_flags_direction"] for f in frames if f["icmp.type"] == "0"} == {INBOUND}
    times = [f["frame.time_epoch"] for f in frames]
    assert times == sorted(times) and all(len(t.split(".")[1]) == 9 for t in times)
    assert any(not t.endswith("000") for t in times)
    assert {f["frame.interface_name"] for f in frames} == {"tap0"}


def test_it_can_be_read_while_it_grows(world):
    path = capture(world)
    world.start(f"--pcap={path}")
    world.guest.run("ping", "-c1", GATEWAY4)
    wait_for("the answer is in the file", lambda: len(read(path, "icmp")) == 2)


def test_what_libslirp_carries_is_there_whole(world):
    path = capture(world)
    slirp = world.start(f"--pcap={path}", "--divert=off", "--mtu=65520", api=True)
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    assert world.guest.client("upload", REMOTE4, 7000, SIZE)["server"]["n"] == SIZE
    found = slirp.api("stats")["return"]
    slirp.stop()
    assert found["capture_drop_ring_full"] == 0
    # Every byte of the connection, as TCP itself accounts for it, however often it was sent.
    table = tshark(path, "-q", "-z", "conv,tcp")
    assert f"{REMOTE4}:7000" in table and GUEST4 in table
    text = tshark(path, "-T", "fields", "-e", "tcp.seq", "-e", "tcp.len", "-Y", f"ip.src=={GUEST4} && tcp.len > 0")
    end = 1  # of what is there without a gap; 0 is the SYN
    for begin, size in sorted(tuple(map(int, line.split())) for line in text.splitlines()):
        assert begin <= end
        end = max(end, begin + size)
    assert end - 1 == SIZE


@pytest.mark.skipif(NO_DIVERT, reason="switched off by $SLIRP4NETNS_ARGS")
@pytest.mark.parametrize("args", [[], CONFINED])
def test_a_diverted_connection_is_its_handshake_and_a_summary(world, args):
    path = capture(world)
    slirp = start_diverting(world, f"--pcap={path}", *args)
    world.remote.peer("tcp_source", REMOTE4, 7000, SIZE)
    assert world.guest.client("download", REMOTE4, 7000)["n"] == SIZE
    wait_for("the summary", lambda: read(path, 'frame.comment contains "splice-outbound closed"'))
    slirp.stop()
    tcp = [f for f in read(path) if f["tcp.dstport"] == "7000" or f["tcp.srcport"] == "7000"]
    syn, syn_ack = (next(f for f in tcp if f["tcp.flags"] == flags) for flags in ("0x0002", "0x0012"))
    assert (syn["ip.src"], syn["ip.dst"]) == (GUEST4, REMOTE4) and syn is tcp[0]
    assert (syn_ack["ip.src"], syn_ack["ip.dst"]) == (REMOTE4, GUEST4)
    assert int(syn_ack["tcp.ack_raw"]) == (int(syn["tcp.seq_raw"]) + 1) % 2 ** 32
    assert (syn["frame.packet_flags_direction"], syn_ack["frame.packet_flags_direction"]) == (OUTBOUND, INBOUND)
    assert sum(int(f["frame.len"]) for f in tcp) < 10000
    summary, = read(path, 'frame.comment contains "splice-outbound"')
    assert summary["frame.comment"].startswith(
        f"splice-outbound closed: {GUEST4}:{syn['tcp.srcport']} -> {REMOTE4}:7000, {SIZE} bytes to the guest, 0 bytes to "
        "the host, ")
    assert (summary["frame.interface_name"], summary["_ws.col.Protocol"]) == ("splice", "splice")
    assert (summary["ip.src"], summary["ip.dst"]) == (GUEST4, REMOTE4)
    assert summary["frame.comment"] in tshark(path, "-V", "-Y", "frame.comment")


@pytest.mark.skipif("--no-splice" in PROGRAM_ARGS, reason="switched off by $SLIRP4NETNS_ARGS")
def test_a_spliced_forward_leaves_a_summary(world):
    path = capture(world)
    slirp = world.start(f"--pcap={path}", api=True)
    world.guest.peer("tcp_echo", "0.0.0.0", 7001)
    slirp.forward("tcp", 18080, 7001)
    wait_for("a spliced one", lambda: world.host.client("echo", "127.0.0.1", 18080, "hello") and
             slirp.api("stats")["return"]["splice_flows"])
    said = wait_for("the summary", lambda: read(path, 'frame.comment contains "splice-forward closed"'))[0]["frame.comment"]
    assert f" -> {GUEST4}:7001, 5 bytes to the guest, 5 bytes to the host, " in said
    assert said.startswith(f"splice-forward closed: {GATEWAY4}:")


def test_a_full_disk_ends_the_capture_and_nothing_else(world):
    full = world.dir / "full"
    full.mkdir()
    owner = f",uid={os.stat(world.work).st_uid}"
    world.host.run("mount", "-t", "tmpfs", "-o", f"size=128k,mode=0755{owner}", "none", str(full))
    path = full / "guest.pcapng"
    slirp = world.start(f"--pcap={path}", "--divert=off", api=True)
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    for _ in range(2):
        assert world.guest.client("upload", REMOTE4, 7000, SIZE)["server"]["n"] == SIZE
    wait_for("it is said", lambda: "the capture to" in slirp.err())
    assert slirp.err().count(f"WARNING: the capture to {path} has ended: No space left on device") == 1
    assert world.guest.run("ping", "-c1", GATEWAY4).returncode == 0
    seen = world.work / "copy.pcapng"
    with open(seen, "wb") as out:
        subprocess.run([*world.host.enter, "cat", str(path)], stdout=out, check=True, timeout=20)
    assert 50_000 < seen.stat().st_size <= 128 * 1024
    assert len(read(seen)) > 10


def test_a_pipe_to_a_reader(world):
    path = world.work / "pipe"
    os.mkfifo(path)
    os.chmod(path, 0o666)
    done = world.run_program(f"--pcap={path}", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "start the program that reads this pipe first" in done.stderr
    copy = world.work / "copy.pcapng"
    with open(copy, "wb") as out:
        reader = subprocess.Popen(["cat", str(path)], stdout=out)
    try:
        with open(path, "wb"):  # waits for the reader, which it keeps until the program has come
            slirp = world.start(f"--pcap={path}", exit_fd=True)
        world.guest.run("ping", "-c1", GATEWAY4)
        slirp.send_exit()
        assert slirp.wait() == 0
        reader.wait(20)
    finally:
        reader.kill()
        reader.wait(20)
    assert len(read(copy, "icmp")) == 2


def test_files_that_cannot_be_had_are_named(world):
    done = world.run_program("--pcap=/nonexistent/x.pcapng", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "cannot open /nonexistent/x.pcapng for the capture" in done.stderr
    done = world.run_program("--pcap=/dev/full", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "cannot write to /dev/full: No space left on device" in done.stderr


def test_the_summary_of_the_file_is_in_order(world):
    path = capture(world)
    slirp = world.start(f"--pcap={path}", exit_fd=True)
    world.guest.run("ping", "-c1", GATEWAY4)
    slirp.send_exit()
    assert slirp.wait() == 0
    info = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, timeout=20, check=True).stdout
    assert "pcapng" in info and "nanoseconds" in info and "Name = tap0" in info and "Number of stat entries = 1" in info
