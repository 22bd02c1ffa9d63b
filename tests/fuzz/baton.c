/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "baton.h"

#include "base/clock.h"

#include <unistd.h>

enum { END_STEP_US = 100 };

/* By that name drive.c has another one. */
int real_thread_spawn(pthread_t *ret, const struct thread_start *start) __asm__("thread_spawn");

struct runner {
    struct thread_start start;
    bool running;
    bool idle;        /* has looked and found nothing since somebody else found something */
    int64_t until_ns; /* idle: INT64_MAX: no limit */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct runner runners[BATON_RUNNERS_MAX];
static unsigned n_runners, holder; /* the holder's number; n_runners: nobody yet */
static bool (*act)(int timeout_ms);
static _Thread_local int self = -1;

void baton_begin(bool (*what)(int timeout_ms))
{
    memset(runners, 0, sizeof(runners));
    n_runners = 0;
    holder = BATON_RUNNERS_MAX;
    act = what;
}

bool baton_is_mine(void)
{
    return self >= 0;
}

static void await(void)
{
    while (holder != (unsigned)self)
        pthread_cond_wait(&changed, &lock);
}

static void hand_on(void)
{
    for (unsigned i = 1; i <= n_runners; i++) {
        unsigned next = (holder + i) % n_runners;

        if (runners[next].running) {
            holder = next;
            break;
        }
    }
    pthread_cond_broadcast(&changed);
}

static void nobody_is_idle(void)
{
    for (unsigned i = 0; i < n_runners; i++)
        runners[i].idle = false;
}

static void run(void *arg)
{
    struct runner *r = arg;

    self = (int)(r - runners);
    pthread_mutex_lock(&lock);
    await();
    pthread_mutex_unlock(&lock);
    r->start.run(r->start.arg);
    pthread_mutex_lock(&lock);
    r->running = false;
    nobody_is_idle();
    hand_on();
    pthread_mutex_unlock(&lock);
}

/* What it prepares has the thread's own arguments. */
static int prepare(void *arg)
{
    struct runner *r = arg;

    return r->start.prepare ? r->start.prepare(r->start.arg) : 0;
}

int baton_spawn(pthread_t *ret, const struct thread_start *start)
{
    struct runner *r = &runners[n_runners];
    struct thread_start wrapped = *start;

    CHECK(n_runners < BATON_RUNNERS_MAX);
    *r = (struct runner){.start = *start, .running = true};
    n_runners++;
    wrapped.prepare = prepare;
    wrapped.run = run;
    wrapped.arg = r;
    wrapped.gate = NULL; /* baton_go() */
    return real_thread_spawn(ret, &wrapped);
}

void baton_go(void)
{
    pthread_mutex_lock(&lock);
    holder = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* True: the world has had its turn. */
static bool all_are_idle(int64_t now)
{
    int64_t until_ns = INT64_MAX;

    for (unsigned i = 0; i < n_runners; i++) {
        if (runners[i].running && !runners[i].idle)
            return false;
        if (runners[i].running && runners[i].until_ns < until_ns)
            until_ns = runners[i].until_ns;
    }
    pthread_mutex_unlock(&lock); /* who has the baton needs no lock, and others only wait for it */
    if (!act(until_ns == INT64_MAX ? -1 : (int)((until_ns - now + NS_PER_MS - 1) / NS_PER_MS)))
        usleep(END_STEP_US); /* the main thread is about to end them */
    pthread_mutex_lock(&lock);
    nobody_is_idle();
    return true;
}

int baton_sleep(int (*look)(void *arg), void *arg, int timeout_ms, int64_t (*now_ns)(void))
{
    struct runner *r = &runners[self];
    int n = look(arg);

    if (n != 0 || timeout_ms == 0)
        return n;
    pthread_mutex_lock(&lock);
    r->until_ns = timeout_ms < 0 ? INT64_MAX : now_ns() + timeout_ms * NS_PER_MS;
    while (n == 0 && now_ns() < r->until_ns) {
        r->idle = true;
        if (!all_are_idle(now_ns())) {
            hand_on();
            await();
        }
        n = look(arg);
    }
    nobody_is_idle();
    pthread_mutex_unlock(&lock);
    return n;
}
