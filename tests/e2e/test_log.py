# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program says, to people and to programs."""

import json
import re

import pytest
from harness import wait_for

pytestmark = pytest.mark.extension

CONFINED = ["--enable-sandbox", "--enable-seccomp"]


def json_lines(text: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert set(line) == {"time", "level", "message"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"])
        assert line["level"] in ("error", "warning", "info", "debug")
    return lines


@pytest.mark.parametrize("args", [[], CONFINED])
def test_the_start_says_what_was_chosen_and_why(world, args):
    slirp = world.start(*args, api=True)
    slirp.stop()
    out = slirp.out()
    assert re.search(r"^\* Data plane:      (io_uring|epoll), (split|shared) threads \(.+\)$", out, re.M), out
    assert re.search(r"^\* Outbound TCP:    (splice|libslirp \(.+\))$", out, re.M), out
    assert re.search(r"^\* Outbound UDP:    (direct|libslirp \(.+\))$", out, re.M), out
    assert re.search(r"^\* Forwards:        TCP (splice|libslirp \(.+\)), UDP direct$", out, re.M), out
    confined = ", sandbox, seccomp" if args else r" \(more: --enable-sandbox, --enable-seccomp\)"
    assert re.search(rf"^\* Confinement:     (no )?Landlock{confined}$", out, re.M), out


def test_the_reason_for_libslirp_is_named(world):
    slirp = world.start("--no-splice", "--udp=slirp", api=True)
    slirp.stop()
    assert "* Outbound UDP:    libslirp (--udp=slirp)\n" in slirp.out()
    assert "* Outbound TCP:    libslirp (--no-splice)\n" in slirp.out()
    assert "* Forwards:        TCP libslirp (--no-splice), UDP direct\n" in slirp.out()


@pytest.mark.parametrize("args", [[], CONFINED])
def test_json_is_one_object_a_line_from_the_first_to_the_last(world, args):
    slirp = world.start("--enable-ipv6", *args, "--log-format=json", api=True, exit_fd=True)
    slirp.api_raw(b'{"execute":"x\\u0001 \\" \\\\ \xc3\xbc"}\n\n\x01')
    slirp.send_exit()
    assert slirp.wait() == 0
    assert slirp.out() == ""
    lines = json_lines(slirp.err())
    said = [line["message"] for line in lines]
    assert "Starting slirp" in said and "exitfd event" in said and "do_slirp is exiting" in said
    assert any(m.startswith("api_handler: got request: ") for m in said)
    assert {"level": "warning", "message": "Support for IPv6 is experimental"}.items() <= lines[0].items()


def test_an_error_is_json_as_well(world):
    done = world.run_program("--log-format=json", "--netns-type=path", "/proc/self/ns/uts", "tap0")
    assert done.returncode == 1
    assert {line["level"] for line in json_lines(done.stderr)} == {"error"}


def test_quiet_leaves_warnings_and_errors(world):
    slirp = world.start("--disable-host-loopback", "-q", api=True, exit_fd=True)
    slirp.api("list_hostfwd")
    slirp.send_exit()
    assert slirp.wait() == 0
    assert slirp.out() == "" and slirp.err() == ""
    # An io_uring lets go of the interface a moment after its process.
    wait_for("the interface is gone", lambda: len(world.guest.ip_json("link")) == 1)
    slirp = world.start("--quiet", exit_fd=True)
    slirp.send_exit()
    assert slirp.wait() == 0
    assert re.fullmatch(r"WARNING: 127\.0\.0\.1:\* on the host is accessible as .*\n", slirp.out())
    done = world.run_program("--quiet", "--netns-type=path", "/proc/self/ns/uts", "tap0")
    assert done.returncode == 1 and done.stderr


def test_levels_and_formats_that_do_not_exist_are_named(world):
    done = world.run_program("--log-level=loud", "1")
    assert done.returncode == 1 and '"loud"' in done.stderr
    done = world.run_program("--log-format=xml", "1")
    assert done.returncode == 1 and '"xml"' in done.stderr
    slirp = world.start("--log-level=error", exit_fd=True)
    slirp.send_exit()
    assert slirp.wait() == 0
    assert slirp.out() == "" and slirp.err() == ""
