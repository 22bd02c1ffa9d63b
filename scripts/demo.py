"""The moving parts of scripts/run: an HTTP server for the host, a download and a DNS query for the guest.

    demo.py serve PORT_FILE BYTES    serves BYTES at any path on 127.0.0.1 until standard input ends
    demo.py download URL BYTES       prints the speed; fails when the number of bytes is another
    demo.py dns SERVER NAME          one A query by UDP; prints what the answer says

Exit status: 0 done, 1 failed (one line says why), 3 nobody answered the DNS query.
"""

import http.client
import http.server
import os
import secrets
import socket
import struct
import sys
import threading
import time
import urllib.parse

CHUNK = 1 << 20
IO_SECONDS_MAX = 30
DNS_TRIES = 3
DNS_SECONDS_MAX = 2.0
NO_ANSWER = 3
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


def serve(port_file: str, n_bytes: int) -> int:
    # A file in memory and sendfile: the server must not be what limits the speed.
    memory = os.memfd_create("download")
    os.truncate(memory, n_bytes)
    path = f"/proc/self/fd/{memory}"

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = IO_SECONDS_MAX

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(n_bytes))
            self.end_headers()
            self.wfile.flush()
            with open(path, "rb", buffering=0) as file:
                self.connection.sendfile(file)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open(port_file + ".new", "w", encoding="ascii") as file:
        file.write(f"{server.server_address[1]}\n")
    os.rename(port_file + ".new", port_file)
    while os.read(0, 4096):
        pass
    return 0


def download(url: str, n_bytes: int) -> int:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=IO_SECONDS_MAX)
    start = time.monotonic()
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        if response.status != 200:
            print(f"the server answered {response.status} {response.reason}")
            return 1
        buffer = memoryview(bytearray(CHUNK))
        received = 0
        while n := response.readinto(buffer):
            received += n
    except (OSError, http.client.HTTPException) as e:
        print(f"the download of {url} failed: {e}")
        return 1
    seconds = time.monotonic() - start
    if received != n_bytes:
        print(f"the download of {url} ended after {received} of {n_bytes} bytes")
        return 1
    print(
        f"{received / CHUNK:.0f} MiB in {seconds:.2f} s: "
        f"{received / CHUNK / seconds:.0f} MiB/s, {received * 8 / seconds / 1e9:.2f} Gbit/s"
    )
    return 0


def dns(server: str, name: str) -> int:
    question = b"".join(bytes([len(label)]) + label.encode("idna") for label in name.strip(".").split("."))
    identity = secrets.randbits(16)
    query = struct.pack("!6H", identity, 0x0100, 1, 0, 0, 0) + question + struct.pack("!B2H", 0, 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((server, 53))
        except OSError as e:
            print(f"{server} cannot be reached: {e.strerror}")
            return NO_ANSWER
        for _ in range(DNS_TRIES):
            start = time.monotonic()
            deadline = start + DNS_SECONDS_MAX
            try:
                sock.send(query)
                while (left := deadline - time.monotonic()) > 0:
                    sock.settimeout(left)
                    answer = sock.recv(65535)
                    if len(answer) >= 12 and struct.unpack_from("!H", answer)[0] == identity:
                        flags, _, n_answers = struct.unpack_from("!3H", answer, 2)
                        code = RCODES.get(flags & 15, f"code {flags & 15}")
                        milliseconds = (time.monotonic() - start) * 1e3
                        print(f"{name} -> {code}, {n_answers} record(s), in {milliseconds:.1f} ms")
                        return 0
            except OSError:  # a timeout, or an ICMP error reported by the kernel: try again
                time.sleep(max(0.0, min(0.2, deadline - time.monotonic())))
    print(f"no answer from {server} after {DNS_TRIES} tries")
    return NO_ANSWER


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serve", port_file, n_bytes]:
            return serve(port_file, int(n_bytes))
        case ["download", url, n_bytes]:
            return download(url, int(n_bytes))
        case ["dns", server, name]:
            return dns(server, name)
    print(__doc__, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
