# SPDX-License-Identifier: GPL-2.0-or-later
"""--metrics: OpenMetrics over HTTP on a UNIX socket, read by the format's own parser and by Prometheus."""

import http.client
import json
import shutil
import socket
import subprocess
import time

import pytest
from harness import GATEWAY4, HOST4, wait_for

pytestmark = pytest.mark.extension
parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="there is no python3-prometheus-client")

CONFINED = ["--enable-sandbox", "--enable-seccomp"]


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def socket_of(world):
    return world.work / "metrics.sock"


def start(world, *args, **kwargs):
    return world.start(f"--metrics={socket_of(world)}", *args, **kwargs)


def get(world, target="/metrics", method="GET"):
    c = Connection(socket_of(world))
    c.request(method, target)
    answer = c.getresponse()
    text = answer.read().decode()
    c.close()
    return answer, text


def families(text):
    """As the parser of the Prometheus project sees them; it refuses what is not OpenMetrics."""
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(found, family, sample="", **labels):
    values = [s.value for s in found[family].samples
              if s.name == family + sample and labels.items() <= s.labels.items()]
    assert len(values) == 1, (family, labels, found[family].samples)
    return values[0]


@pytest.mark.parametrize("args", [[], CONFINED])
def test_it_is_openmetrics(world, args):
    slirp = start(world, *args, api=True)
    world.guest.run("ping", "-c3", "-i0.2", GATEWAY4)
    slirp.forward("tcp", 18080, 80, host_addr=HOST4)
    slirp.forward("udp", 18080, 80)
    answer, text = get(world)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = families(text)
    assert value(found, "slirp4netns_rx_frames", "_total") >= 3
    assert value(found, "slirp4netns_thread_cpu_seconds", "_total", thread="slirp") > 0
    assert value(found, "slirp4netns_drops", "_total", where="rx", reason="malformed") == 0
    assert value(found, "slirp4netns_build", "_info", threads=slirp.api("stats")["return"]["threads"]) == 1
    assert value(found, "slirp4netns_forwards") == 2
    assert value(found, "slirp4netns_forward", "_info", id="1", proto="tcp", host_addr=HOST4, guest_port="80") == 1
    units = {name: family.unit for name, family in found.items() if family.unit}
    assert units["slirp4netns_rx_bytes"] == "bytes" and units["slirp4netns_world_stop_seconds"] == "seconds"
    assert all(name.endswith(f"_{unit}") for name, unit in units.items())
    assert all(family.documentation for family in found.values())


def test_it_needs_no_api_socket(world):
    start(world)
    assert "slirp4netns_forwards 0\n" in get(world)[1]


def test_the_file_comes_and_goes(world):
    socket_of(world).write_text("in the way")
    slirp = start(world, exit_fd=True)
    assert get(world)[0].status == 200
    slirp.send_exit()
    assert slirp.wait() == 0
    assert not socket_of(world).exists()


def test_other_requests(world):
    start(world)
    assert [get(world, t, m)[0].status for t, m in (("/", "GET"), ("/nothing", "GET"), ("/metrics", "POST"),
                                                    ("/metrics", "HEAD"))] == [200, 404, 405, 200]
    c = Connection(socket_of(world))
    for _ in range(3):  # on one connection
        c.request("GET", "/metrics")
        assert families(c.getresponse().read().decode())
    c.close()


def test_clients_that_hold_places_do_not_keep_them(world):
    """Eight that say nothing, or too slowly, fill all places; after their ten seconds others are served. The API
    does not notice."""
    slirp = start(world, api=True)
    holders = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    begun = time.monotonic()
    for holder in holders:
        holder.connect(str(socket_of(world)))
    holders[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
    assert slirp.api("list_hostfwd")["entries"] == []
    assert time.monotonic() - begun < 9
    c = Connection(socket_of(world))
    c.request("GET", "/metrics")  # waits in the backlog
    alive = 0
    while time.monotonic() - begun < 9:  # a header that never ends
        try:
            holders[0].sendall(b"X: y\r\n")
            alive += 1
        except OSError:
            break
        time.sleep(0.5)  # a client that dawdles is the case under test
    assert alive > 4
    assert c.getresponse().status == 200
    assert 9 < time.monotonic() - begun < 16
    assert b" 400 " in holders[0].recv(4096)
    for holder in holders:
        holder.close()


def test_a_reader_that_does_not_read_is_let_go(world):
    slirp = start(world, api=True)
    s = socket.socket(socket.AF_UNIX)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(str(socket_of(world)))
    s.settimeout(1)
    for _ in range(200):  # far more answers than the socket holds
        try:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        except OSError:
            break
    assert slirp.api("list_hostfwd")["entries"] == []
    assert get(world)[0].status == 200
    s.close()


def test_paths_that_cannot_be_had_are_named(world):
    done = world.run_program("--metrics=/nonexistent/m.sock", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "cannot bind the metrics socket to /nonexistent/m.sock" in done.stderr
    done = world.run_program("--metrics=/tmp/x", "--api-socket=/tmp/x", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "/tmp/x" in done.stderr
    done = world.run_program(f"--metrics=/{'x' * 120}", "-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "too long" in done.stderr


@pytest.mark.skipif(not shutil.which("prometheus"), reason="there is no prometheus (package prometheus)")
def test_prometheus_scrapes_it(world):
    start(world)
    world.guest.run("ping", "-c2", "-i0.2", GATEWAY4)
    world.host.peer("unix_relay", "127.0.0.1", 9101, socket_of(world))
    config = world.dir / "prometheus.yml"
    config.write_text(json.dumps({"scrape_configs": [{"job_name": "slirp4netns", "scrape_interval": "1s",
                                                      "static_configs": [{"targets": ["127.0.0.1:9101"]}]}]}))
    with open(world.dir / "prometheus.log", "wb") as log:
        prometheus = subprocess.Popen(
            [*world.host.enter, "prometheus", f"--config.file={config}", f"--storage.tsdb.path={world.dir}/tsdb",
             "--web.listen-address=127.0.0.1:9090"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def query(expression):
        script = ("import sys,urllib.parse,urllib.request as r\n"
                  "print(r.urlopen('http://127.0.0.1:9090/api/v1/query?query='+urllib.parse.quote(sys.argv[1]),"
                  "timeout=5).read().decode())")
        done = world.host.run("/usr/bin/python3", "-c", script, expression, check=False)
        return json.loads(done.stdout)["data"]["result"] if done.returncode == 0 else []

    try:
        wait_for("a scrape that worked", lambda: [r for r in query("up") if r["value"][1] == "1"], 30)
        assert float(query("slirp4netns_rx_frames_total")[0]["value"][1]) >= 2
        assert query('slirp4netns_build_info{version!=""}')
        kind = json.loads(world.host.run(
            "/usr/bin/python3", "-c", "import urllib.request as r;print(r.urlopen('http://127.0.0.1:9090/api/v1/metadata?"
            "metric=slirp4netns_divert_open',timeout=5).read().decode())").stdout)["data"]
        assert kind["slirp4netns_divert_open"][0]["type"] == "gauge"
    finally:
        prometheus.terminate()
        prometheus.wait(20)
