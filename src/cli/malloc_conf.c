/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * malloc_conf.c - jemalloc tuned for a small process
 *
 * The data plane allocates nothing per frame; libslirp does, from one thread. Two arenas are plenty, their
 * thread caches small, and what is freed goes back to the kernel soon and without a thread of its own
 * (jemalloc(3), TUNING). jemalloc reads this symbol at start; bench/README.md has the figures.
 */
#include <glib.h>
#include <stdlib.h>

extern const char *malloc_conf;
const char *malloc_conf =
    "narenas:2,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:false";

/*
 * For each connection libslirp makes two buffers of 128 KiB (TCP_SNDSPACE, TCP_RCVSPACE), and makes them
 * larger, up to a multiple of the MSS, as soon as it knows that (sbreserve()). The C library moves page
 * tables for that; jemalloc makes a copy, which touches all of both: 266 KiB were resident for a connection
 * that had never carried a byte, where 3 KiB are needed, and each connect had 64 page faults. With room for
 * the largest multiple from the beginning they stay where they are; pages that nobody touches cost nothing.
 * libslirp finds this function before glib's, as it finds accept() (slirp/adopt.c).
 */
enum {
    SOCKET_BUFFER = 128 * 1024,
    SOCKET_BUFFER_ROOM = 192 * 1024, /* at least SOCKET_BUFFER + 65495: the MSS of an MTU of 65535 */
};

__attribute__((visibility("default"))) gpointer g_realloc(gpointer p, gsize size)
{
    if (size == 0) {
        free(p);
        return NULL;
    }
    p = realloc(p, size >= SOCKET_BUFFER && size <= SOCKET_BUFFER_ROOM ? SOCKET_BUFFER_ROOM : size);
    if (!p)
        g_error("cannot allocate %" G_GSIZE_FORMAT " bytes", size); /* ends the program, as glib's does */
    return p;
}
