/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pipes.h - the pipes of one splice worker: taken while bytes are in them, idle otherwise
 *
 * A stack of idle pipes, so that the one used last, whose slots are in the cache, is used next. Every pipe is
 * non-blocking and close-on-exec. Owner: one worker; main before it starts and after it ended.
 */
#pragma once

#include <stdint.h>

struct pipe {
    int read_fd, write_fd; /* -1, -1: none */
    uint32_t size;         /* bytes, as the kernel counts them: slots of one page */
};

#define PIPE_NULL                     \
    {                                 \
        .read_fd = -1, .write_fd = -1 \
    }

struct pipes {
    struct pipe *idle; /* a stack of n_idle, room for n_idle_max */
    uint32_t n_idle, n_idle_max;
    uint32_t n_open;    /* idle and taken */
    uint32_t size;      /* wished for, cut to fs.pipe-max-size */
    uint32_t page_size; /* of a slot */
    uint32_t n_refused; /* pipes that may still be taken before growing is tried again */
};

#define PIPES_NULL    \
    {                 \
        .idle = NULL, \
    }

/* 0 or -ENOMEM. Reads fs.pipe-max-size: before the sandbox. @size: bytes per pipe, less where the system
 * allows less; @n_idle_max: how many idle pipes are kept open. _deinit twice is fine; taken pipes are not its
 * business. */
int pipes_init(struct pipes *pool, uint32_t size, uint32_t n_idle_max);
void pipes_deinit(struct pipes *pool);

/* An empty pipe in @ret. 0 or a negative errno: -EMFILE, -ENFILE, -ENOMEM. */
int pipes_take(struct pipes *pool, struct pipe *ret);
/* Sees to it that the next pipes_take() succeeds. */
int pipes_reserve(struct pipes *pool);
/* Gives back a pipe that is empty; leaves PIPE_NULL. */
void pipes_give(struct pipes *pool, struct pipe *p);
/* Closes a pipe that may have bytes in it; leaves PIPE_NULL. */
void pipes_drop(struct pipes *pool, struct pipe *p);
