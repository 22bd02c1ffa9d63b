/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * malloc_conf.c - jemalloc tuned for a small process
 *
 * The data plane allocates nothing per frame; libslirp does, from one thread. Two arenas are plenty, their
 * thread caches small, and what is freed goes back to the kernel soon and without a thread of its own
 * (jemalloc(3), TUNING). jemalloc reads this symbol at start; bench/README.md has the figures.
 */
extern const char *malloc_conf;
const char *malloc_conf =
    "narenas:2,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:false";
