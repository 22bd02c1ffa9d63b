/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spsc.pml - the ring of src/io/spsc.h, every interleaving and every value that C11 lets a load return
 *
 * Memory is not a single array here but a history: each store adds a message to its location, and a load may return
 * any message that is not older than what its thread has seen of that location. A release store puts into its
 * message what its thread has done so far, an acquire load takes that over. Slots are plain memory: whoever touches
 * one must have seen all of the other side's accesses to it (no data race), which is what the counters w and r
 * are for: writes and reads of each slot that have happened, and that a thread knows of.
 *
 * Checked: no race on a slot, every id once and in order, never more than SLOTS in the ring, indices that wrap.
 * Not in the model: a load that is carried out after a later store of its own thread ("load buffering"). Both
 * index stores are releases, which forbid it; relaxed variants are refuted here for other reasons already.
 * A push or pop of nothing stores the same index again; that message would only tell more than the one before it and
 * is left out.
 *
 * R1, A1, R2, A2 are the names used in spsc.h. BROKEN takes one away:
 *   1 R1   2 A1   3 R2   4 A2   5 one slot too many   6 the id is stored after the index
 */
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef ITEMS
#define ITEMS 5
#endif
#ifndef BROKEN
#define BROKEN 0
#endif
#define INDICES (4 * SLOTS)     /* indices run through so many values, as through 2^32 */
#define FIRST (INDICES - 2)     /* soon to wrap */
#define DIFF(a, b) (((a) + INDICES - (b)) % INDICES)
#if BROKEN == 5
#define ROOM (SLOTS + 1)
#else
#define ROOM SLOTS
#endif

byte slot[SLOTS];
byte w_now[SLOTS], r_now[SLOTS]; /* accesses that have happened */

/* Messages of tail and head. */
byte tail_value[ITEMS + 1], n_tail = 1;
byte tail_w[(ITEMS + 1) * SLOTS]; /* what each message tells of writes to slots */
byte head_value[ITEMS + 1], n_head = 1;
byte head_r[(ITEMS + 1) * SLOTS]; /* ... of reads */

bool producer_done, consumer_done;

inline join(mine, theirs)
{
    if
    :: mine < theirs -> mine = theirs
    :: else
    fi
}

proctype producer()
{
    byte tail = FIRST, head_seen = FIRST; /* as in the struct */
    byte known_r[SLOTS], head_at = 0;     /* what this thread has seen */
    byte sent = 0, n, i, k;

    do
    :: sent == ITEMS -> break
    :: else ->
        select(n : 1 .. SLOTS);
        if
        :: n > ITEMS - sent -> n = ITEMS - sent
        :: else
        fi;
        if
        :: ROOM - DIFF(tail, head_seen) < n ->
            atomic {
                select(k : head_at .. n_head - 1); /* A2: load head */
                head_at = k;
                head_seen = head_value[k];
#if BROKEN != 4
                for (i : 0 .. SLOTS - 1) {
                    join(known_r[i], head_r[k * SLOTS + i])
                }
#endif
            }
            if
            :: n > ROOM - DIFF(tail, head_seen) -> n = ROOM - DIFF(tail, head_seen)
            :: else
            fi
        :: else
        fi;
#if BROKEN != 6
        for (i : 0 .. n - 1) {
            d_step {
                assert(known_r[(tail + i) % SLOTS] == r_now[(tail + i) % SLOTS]);
                slot[(tail + i) % SLOTS] = sent + i;
                w_now[(tail + i) % SLOTS]++
            }
        }
#endif
        if
        :: n > 0 ->
            d_step { /* R1: store tail */
                tail = (tail + n) % INDICES;
                tail_value[n_tail] = tail;
#if BROKEN != 1
                for (i : 0 .. SLOTS - 1) {
                    tail_w[n_tail * SLOTS + i] = w_now[i] /* only this thread writes slots: it knows of all */
                }
#endif
                n_tail++;
                sent = sent + n
            }
        :: else
        fi;
#if BROKEN == 6
        for (i : 0 .. n - 1) {
            d_step {
                slot[(tail + INDICES - n + i) % SLOTS] = sent - n + i;
                w_now[(tail + INDICES - n + i) % SLOTS]++
            }
        }
#endif
    od;
    producer_done = true
}

proctype consumer()
{
    byte head = FIRST, tail_seen = FIRST;
    byte known_w[SLOTS], tail_at = 0;
    byte got = 0, n, i, k;

    do
    :: got == ITEMS -> break
    :: else ->
        select(n : 1 .. SLOTS); /* max */
        if
        :: DIFF(tail_seen, head) < n ->
            atomic {
                select(k : tail_at .. n_tail - 1); /* A1: load tail */
                tail_at = k;
                tail_seen = tail_value[k];
#if BROKEN != 2
                for (i : 0 .. SLOTS - 1) {
                    join(known_w[i], tail_w[k * SLOTS + i])
                }
#endif
            }
        :: else
        fi;
        assert(DIFF(tail_seen, head) <= SLOTS);
        if
        :: n > DIFF(tail_seen, head) -> n = DIFF(tail_seen, head)
        :: else
        fi;
        for (i : 0 .. n - 1) {
            d_step {
                assert(known_w[(head + i) % SLOTS] == w_now[(head + i) % SLOTS]);
                assert(slot[(head + i) % SLOTS] == got + i);
                r_now[(head + i) % SLOTS]++
            }
        }
        if
        :: n > 0 ->
            d_step { /* R2: store head */
                head = (head + n) % INDICES;
                head_value[n_head] = head;
#if BROKEN != 3
                for (i : 0 .. SLOTS - 1) {
                    head_r[n_head * SLOTS + i] = r_now[i]
                }
#endif
                n_head++;
                got = got + n
            }
        :: else
        fi
    od;
    consumer_done = true
}

init
{
    tail_value[0] = FIRST;
    head_value[0] = FIRST;
    atomic {
        run producer();
        run consumer()
    }
#ifdef REACH
    producer_done && consumer_done; /* that there is an end to come to */
    assert(false)
#endif
}
