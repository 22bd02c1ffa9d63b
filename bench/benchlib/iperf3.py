# SPDX-License-Identifier: GPL-2.0-or-later
"""iperf3 -u as a load: datagrams as fast as it can send them. What counts is what arrives."""
import json
import math

from .util import DEADLINE_S, MeasurementError

SECONDS_MIN = 1.0  # it takes whole seconds
CONNECT_MS = int(DEADLINE_S * 1000)


def server_command(address, port, seconds):
    """Its first line comes when it listens. It does not end by itself, so timeout(1) ends it."""
    return ["timeout", math.ceil(seconds), "iperf3", "--server", "--bind", address, "--port", port, "--forceflush"]


def client_command(address, port, direction, size, seconds):
    return ["iperf3", "--client", address, "--port", port, "--udp", "--bitrate", 0, "--length", size, "--time",
            max(1, round(seconds)), "--connect-timeout", CONNECT_MS, "--json",
            *(["--reverse"] if direction == "in" else [])]


def result(text, size):
    """As bench/load says it, from iperf3's JSON."""
    try:
        output = json.loads(text)
        if "error" in output:
            raise MeasurementError(f"iperf3: {output['error']}")
        sent, received = output["end"]["sum_sent"], output["end"]["sum_received"]
        n_received = received["bytes"] // size
        return {"sent": sent["packets"], "received": n_received, "lost": received["lost_packets"],
                "per_second": n_received / received["seconds"]}
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        raise MeasurementError(f"iperf3 said something else than its result: {e!r}") from e
