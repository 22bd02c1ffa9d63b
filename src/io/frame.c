/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/frame.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int frame_pool_init(struct frame_pool *p, uint32_t n_frames)
{
    memset(p, 0, sizeof(*p));
    p->n_frames = n_frames;
    p->region = mmap(NULL, (size_t)n_frames * FRAME_STRIDE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->region == MAP_FAILED) {
        p->region = NULL;
        return -errno;
    }
    /* Idle memory matters more here than TLB misses of a bulk copy: one small frame must not cost 2 MiB.
     * Advice only: a kernel without huge pages answers EINVAL, which is fine. */
    (void)madvise(p->region, (size_t)n_frames * FRAME_STRIDE, MADV_NOHUGEPAGE);
    p->size = calloc(n_frames, sizeof(*p->size));
    p->free = calloc(n_frames, sizeof(*p->free));
    if (!p->size || !p->free || spsc_init(&p->back, n_frames, 0) < 0) {
        frame_pool_deinit(p);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n_frames; i++)
        p->free[i] = n_frames - 1 - i;
    p->n_free = n_frames;
    return 0;
}

void frame_pool_deinit(struct frame_pool *p)
{
    if (p->region)
        munmap(p->region, (size_t)p->n_frames * FRAME_STRIDE);
    free(p->size);
    free(p->free);
    spsc_deinit(&p->back);
    memset(p, 0, sizeof(*p));
}

uint32_t frame_take(struct frame_pool *p, frame_id *out, uint32_t max)
{
    uint32_t n;

    if (p->n_free < max)
        p->n_free += spsc_pop(&p->back, p->free + p->n_free, p->n_frames - p->n_free);
    n = min_u32(max, p->n_free);
    for (uint32_t i = 0; i < n; i++)
        out[i] = p->free[--p->n_free]; /* last in, first out: the buffer most likely still in the cache */
    return n;
}

void frame_put(struct frame_pool *p, const frame_id *ids, uint32_t n)
{
    assert(p->n_free + n <= p->n_frames);
    memcpy(p->free + p->n_free, ids, n * sizeof(*ids));
    p->n_free += n;
}

void frame_return(struct frame_pool *p, const frame_id *ids, uint32_t n)
{
    uint32_t done = spsc_push(&p->back, ids, n);

    assert(done == n);
    (void)done;
}
