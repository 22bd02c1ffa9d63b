/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wakeup.pml - the eventcount of src/io/wakeup.h: can a consumer sleep although there is work?
 *
 * PRODUCERS threads publish ITEMS pieces of work each and notify. The consumer sleeps as tx_sleep() in src/io/tap_tx.c
 * does, until it has all of the work. It may also be woken by something else, SPURIOUS times. With STOP another thread
 * asks for the end, as tap_tx_stop() does, by a relaxed flag and wakeup_send(), and the consumer ends when it sees that.
 *
 * Memory is a history, as in spsc.pml. Everything is relaxed here, publishing and looking too (the rings' release and
 * acquire would only help). A sequentially consistent fence takes over what all fences before it have known,
 * and adds what its thread knows (RC11's order of such fences, as an operation). The eventfd is the kernel's and under its
 * lock: whoever reads it knows what those who wrote it knew.
 *
 * `sleeping` has several writers. Plain stores are the consumer's alone, so they have an order: message i. An
 * exchange follows one message directly, and not necessarily the newest: exchanged[i]. Its time is between i and i + 1; a
 * thread's view counts in halves: 2i has seen message i, 2i + 1 the exchange behind it.
 *
 * Checked: nobody waits for ever (an invalid end state), all work is done at the end, and no more is sent than
 * there were announcements of sleep (one of several producers sends). Not in the model: load buffering; on both
 * sides the fence stands between the store and the load that matter.
 *
 * F1 and F2 are the names used in wakeup.h. BROKEN takes something away:
 *   1 F1   2 F2   3 the second look before sleeping   4 the announcement comes after the second look
 *   5 the eventfd is emptied after looking, before sleeping
 */
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef ITEMS
#define ITEMS 2
#endif
#ifndef SPURIOUS
#define SPURIOUS 1
#endif
#ifndef BROKEN
#define BROKEN 0
#endif
#define ALL (PRODUCERS * ITEMS)
#define SLEEPS_MAX (2 * ALL + SPURIOUS + 3) /* each ends by work, a wake-up or something else */
#define STORES_MAX (2 * SLEEPS_MAX + 1)

/* What a thread has seen. */
typedef view {
    byte work[PRODUCERS];
    byte stop;
    byte sleeping; /* in halves */
}

byte published[PRODUCERS]; /* the newest message of each: messages are the numbers up to it */
byte stop_asked;              /* 0 or 1, likewise */

bit stored[STORES_MAX]; /* `sleeping`: messages ... */
bit exchanged[STORES_MAX];
byte n_stored = 1;

view fences;   /* what fences know */
view event;    /* what writers of the eventfd knew */
bool readable; /* the eventfd */
byte n_prepared, n_sent;
bool consumer_done;

inline join(into, from)
{
    for (q : 0 .. PRODUCERS - 1) {
        if
        :: into.work[q] < from.work[q] -> into.work[q] = from.work[q]
        :: else
        fi
    }
    if
    :: into.stop < from.stop -> into.stop = from.stop
    :: else
    fi;
    if
    :: into.sleeping < from.sleeping -> into.sleeping = from.sleeping
    :: else
    fi
}

inline fence(mine)
{
    d_step {
        join(mine, fences);
        join(fences, mine);
        q = 0
    }
}

inline send(mine)
{
    d_step {
        readable = true;
        join(event, mine);
        q = 0
    }
}

proctype producer(byte id)
{
    view mine;
    byte n, k, q;

    do
    :: n == ITEMS -> break
    :: else ->
        n++;
        d_step { /* publish */
            published[id] = n;
            mine.work[id] = n
        }
#if BROKEN != 2
        fence(mine); /* F2 */
#endif
        atomic { /* load sleeping: the value is in k % 2 == 1: 0, else stored[k / 2] */
            select(k : mine.sleeping .. 2 * n_stored - 1);
            if
            :: k % 2 == 1 && !exchanged[k / 2] -> k = k - 1
            :: else
            fi;
            if
            :: k >= mine.sleeping -> mine.sleeping = k
            :: else
            fi
        }
        if
        :: k % 2 == 0 && stored[k / 2] ->
            atomic { /* exchange it for 0 */
                select(k : mine.sleeping / 2 .. n_stored - 1);
                if
                :: exchanged[k] -> /* 0 for 0 */
                    k = 0
                :: else ->
                    exchanged[k] = 1;
                    mine.sleeping = 2 * k + 1;
                    k = stored[k]
                fi
            }
            if
            :: k == 1 ->
                d_step {
                    n_sent++;
                    assert(n_sent <= n_prepared)
                }
                send(mine)
            :: else
            fi
        :: else
        fi
    od
}

#ifdef STOP
proctype stopper()
{
    view mine;
    byte q;

    d_step {
        stop_asked = 1;
        mine.stop = 1
    }
    send(mine)
}
#endif

inline load(ret, seen, newest)
{
    atomic {
        select(k : seen .. newest);
        seen = k;
        ret = k;
        k = 0
    }
}

inline store_sleeping(value)
{
    d_step {
        assert(n_stored < STORES_MAX);
        stored[n_stored] = value;
        mine.sleeping = 2 * n_stored;
        n_stored++
    }
}

/* Takes all it sees; more: there was some. */
inline look_and_take()
{
    more = false;
    for (p : 0 .. PRODUCERS - 1) {
        load(got, mine.work[p], published[p]);
        if
        :: got > taken[p] ->
            taken[p] = got;
            more = true
        :: else
        fi
    }
}

inline look()
{
    more = false;
    for (p : 0 .. PRODUCERS - 1) {
        load(got, mine.work[p], published[p]);
        if
        :: got > taken[p] -> more = true
        :: else
        fi
    }
    load(stop, mine.stop, stop_asked)
}

inline prepare()
{
    n_prepared++;
    store_sleeping(1);
#if BROKEN != 1
    fence(mine) /* F1 */
#endif
}

proctype consumer()
{
    view mine;
    byte taken[PRODUCERS];
    byte p, k, q, got, stop, spurious;
    bool more, all;

    do
    :: true ->
#ifdef STOP
        load(stop, mine.stop, stop_asked);
        if
        :: stop -> break
        :: else
        fi;
#endif
        look_and_take();
#ifndef STOP
        all = true;
        for (p : 0 .. PRODUCERS - 1) {
            if
            :: taken[p] < ITEMS -> all = false
            :: else
            fi
        }
        if
        :: all -> break
        :: else
        fi;
#endif
        if
        :: !more ->
#if BROKEN != 4
            prepare();
#endif
#if BROKEN == 3
            more = false;
            stop = 0;
#else
            look();
#endif
#if BROKEN == 4
            prepare();
#endif
            if
            :: !more && !stop ->
#if BROKEN == 5
                readable = false;
#endif
                if
                :: atomic { /* poll, then drain */
                    readable ->
                    readable = false;
                    join(mine, event);
                    q = 0
                   }
                :: atomic {
                    spurious < SPURIOUS -> spurious++
                   }
                fi
            :: else
            fi;
            store_sleeping(0)
        :: else
        fi
    od;
    consumer_done = true
}

init
{
    byte id;

    atomic {
        for (id : 0 .. PRODUCERS - 1) {
            run producer(id)
        }
#ifdef STOP
        run stopper();
#endif
        run consumer()
    }
#ifdef REACH
    consumer_done;
    assert(false)
#endif
}
