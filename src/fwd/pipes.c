/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pipes.c
 *
 * How large a pipe may be (pipe(7)): F_SETPIPE_SZ beyond fs.pipe-max-size needs CAP_SYS_RESOURCE, and so does
 * growing once the pipes of this user, in all processes, have more than fs.pipe-user-pages-soft slots (64 MiB
 * by default, so 64 pipes of 1 MiB). Past that limit, pipe2(2) itself gives two slots. None of this is an
 * error: halves are tried down to what pipe2(2) gave, and that is used. A small pipe works and is slow, so it
 * is grown later; but since a refusal is likely followed by others, not before GROW_PAUSE more were taken.
 */
#include "fwd/pipes.h"

#include "base/bits.h"
#include "base/counters.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { GROW_PAUSE = 256 };

static uint32_t pipe_size_max(void)
{
    FILE *file = fopen("/proc/sys/fs/pipe-max-size", "re");
    char line[32];
    unsigned long size = 0;

    if (file && fgets(line, sizeof(line), file))
        size = strtoul(line, NULL, 10);
    if (file)
        fclose(file);
    /* Not known: growing finds out. */
    return size == 0 || size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
}

int pipes_init(struct pipes *pool, uint32_t size, uint32_t n_idle_max)
{
    long page_size = sysconf(_SC_PAGESIZE);

    *pool = (struct pipes){.n_idle_max = max_u32(n_idle_max, 1), .page_size = (uint32_t)page_size};
    pool->size = max_u32(min_u32(min_u32(size, pipe_size_max()), INT32_MAX), pool->page_size);
    pool->idle = calloc(pool->n_idle_max, sizeof(*pool->idle));
    return pool->idle ? 0 : -ENOMEM;
}

void pipes_deinit(struct pipes *pool)
{
    while (pool->n_idle > 0)
        pipes_drop(pool, &pool->idle[--pool->n_idle]);
    free(pool->idle);
    *pool = (struct pipes)PIPES_NULL;
}

/* Towards the size wished for, as far as the system lets us. */
static void grow(struct pipes *pool, struct pipe *p)
{
    if (pool->n_refused > 0) {
        pool->n_refused--;
        return;
    }
    for (uint32_t size = pool->size; size > p->size; size /= 2) {
        int granted = fcntl(p->write_fd, F_SETPIPE_SZ, (int)size);

        if (granted >= 0) {
            p->size = (uint32_t)granted; /* rounded up to a power of two of slots */
            return;
        }
        pool->n_refused = GROW_PAUSE;
    }
}

static int open_pipe(struct pipes *pool, struct pipe *ret)
{
    int fds[2], size;

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    size = fcntl(fds[1], F_GETPIPE_SZ);
    *ret = (struct pipe){fds[0], fds[1], size > 0 ? (uint32_t)size : pool->page_size};
    pool->n_open++;
    counter_add_shared(COUNTER_splice_pipes, 1); /* rare: a pipe is used again and again */
    return 0;
}

int pipes_take(struct pipes *pool, struct pipe *ret)
{
    if (pool->n_idle > 0) {
        *ret = pool->idle[--pool->n_idle];
    } else {
        int r = open_pipe(pool, ret);

        if (r < 0)
            return r;
    }
    if (ret->size < pool->size)
        grow(pool, ret);
    return 0;
}

int pipes_reserve(struct pipes *pool)
{
    int r;

    if (pool->n_idle > 0)
        return 0;
    r = open_pipe(pool, &pool->idle[0]);
    if (r == 0)
        pool->n_idle = 1;
    return r;
}

void pipes_give(struct pipes *pool, struct pipe *p)
{
    if (pool->n_idle == pool->n_idle_max) {
        pipes_drop(pool, p);
        return;
    }
    pool->idle[pool->n_idle++] = *p;
    *p = (struct pipe)PIPE_NULL;
}

void pipes_drop(struct pipes *pool, struct pipe *p)
{
    assert(p->read_fd >= 0 && pool->n_open > 0);
    close(p->read_fd);
    close(p->write_fd);
    pool->n_open--;
    counter_add_shared(COUNTER_splice_pipes, UINT64_MAX);
    *p = (struct pipe)PIPE_NULL;
}
