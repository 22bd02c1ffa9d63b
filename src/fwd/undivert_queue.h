/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undivert_queue.h - elements of the nft sets that an nsagent is to take away, until it says that it has
 *
 * In order: those that the present agent has been asked for, then those that it has not. An agent that ends
 * may have done nothing of what it was asked for, so its successor is asked for all of it again; to take
 * away what is not there does no harm. Answers come in the order of requests: a connection for which the
 * agent has answered a request to divert cannot have a former tuple of its own in the first part.
 *
 * One thread.
 */
#pragma once

#include "fwd/nft.h"

#include <stdbool.h>
#include <stdint.h>

enum { UNDIVERT_QUEUE_MAX = 512 };

struct undivert_queue {                          /* zero: empty */
    struct nft_tuple tuples[UNDIVERT_QUEUE_MAX]; /* a ring */
    uint32_t first, n;
    uint32_t n_asked; /* of them, the first ones */
};

/* Returns how many had a place, the first ones. */
uint32_t undivert_queue_add(struct undivert_queue *q, const struct nft_tuple *tuples, uint32_t count);
/* Copies those to be asked for next, @max at most; returns how many. */
uint32_t undivert_queue_next(const struct undivert_queue *q, struct nft_tuple *ret, uint32_t max);
/* The first @count of them have been asked for. */
void undivert_queue_asked(struct undivert_queue *q, uint32_t count);
/* The first @count that were asked for are gone. False: so many were not asked for. */
bool undivert_queue_done(struct undivert_queue *q, uint32_t count);
/* Whoever was asked has ended: all of it has to be asked for again. */
void undivert_queue_again(struct undivert_queue *q);
/* Is it to be taken away? */
bool undivert_queue_has(const struct undivert_queue *q, const struct nft_tuple *tuple);
/* A connection with these addresses is diverted anew: takes it out if it has not been asked for. */
void undivert_queue_forget(struct undivert_queue *q, const struct nft_tuple *tuple);
