/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/thread.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>

/* libslirp keeps whole 64 KiB packets on its stack (if_encap), more than once in a chain of calls. */
enum { THREAD_STACK_SIZE = 1 << 20 };

/* ---- what threads count ---- */

struct thread_row {
    struct thread_counts counts;
    char name[16]; /* this and clock: written before `made`, fixed then */
    clockid_t clock;
    _Atomic bool made;
};

static struct thread_row rows[THREADS_MAX];
static _Atomic unsigned n_rows;
static struct thread_counts nobody; /* of threads without a row: what they count is not shown */

_Thread_local struct thread_counts *thread_counts = &nobody;
static _Thread_local const char *own_name = "?";

const char *thread_name(void)
{
    return own_name;
}

void thread_register(const char *name)
{
    /* Relaxed: `made` publishes. */
    unsigned i = atomic_fetch_add_explicit(&n_rows, 1, memory_order_relaxed);
    struct thread_row *row = &rows[i];

    if (i >= THREADS_MAX) {
        atomic_fetch_sub_explicit(&n_rows, 1, memory_order_relaxed);
        return;
    }
    if (pthread_getcpuclockid(pthread_self(), &row->clock) != 0)
        return;
    snprintf(row->name, sizeof(row->name), "%s", name);
    own_name = row->name;
    thread_counts = &row->counts;
    atomic_store_explicit(&row->made, true, memory_order_release); /* pairs with threads_info() */
}

unsigned threads_info(struct thread_info ret[THREADS_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < THREADS_MAX; i++) {
        struct thread_row *row = &rows[i];
        struct timespec cpu;

        if (!atomic_load_explicit(&row->made, memory_order_acquire) || /* pairs with thread_register() */
            clock_gettime(row->clock, &cpu) < 0)                       /* EINVAL: it has ended */
            continue;
        ret[n] = (struct thread_info){
            .cpu_ns = (uint64_t)(cpu.tv_sec * NS_PER_S + cpu.tv_nsec),
            .turns = atomic_load_explicit(&row->counts.turns, memory_order_relaxed),
            .wake_ups = atomic_load_explicit(&row->counts.wake_ups, memory_order_relaxed),
        };
        snprintf(ret[n].name, sizeof(ret[n].name), "%s", row->name);
        n++;
    }
    return n;
}

/* ---- starting ---- */

static int (*confine_hook)(const struct thread_start *start);

void thread_set_confine(int (*confine)(const struct thread_start *start))
{
    confine_hook = confine;
}

struct spawn { /* lives on the spawner's stack until the semaphore is posted */
    const struct thread_start *start;
    sem_t ready;
    int result;
};

static void *thread_main(void *arg)
{
    struct spawn *spawn = arg;
    struct thread_start start = *spawn->start;
    int r;

    prctl(PR_SET_NAME, start.name);
    thread_register(start.name);
    r = start.prepare ? start.prepare(start.arg) : 0;
    if (r == 0 && confine_hook)
        r = confine_hook(&start);
    spawn->result = r;
    sem_post(&spawn->ready); /* @spawn is gone from here on */
    if (r < 0)
        return NULL;
    while (start.gate && sem_wait(start.gate) < 0 && errno == EINTR)
        ;
    start.run(start.arg);
    return NULL;
}

int thread_spawn(pthread_t *ret, const struct thread_start *start)
{
    struct spawn spawn = {.start = start};
    sigset_t all, old;
    pthread_attr_t attr;
    int r;

    r = pthread_attr_init(&attr);
    if (r != 0)
        return -r;
    pthread_attr_setstacksize(&attr, THREAD_STACK_SIZE);
    sem_init(&spawn.ready, 0, 0);
    sigfillset(&all);
    sigdelset(&all, SIGSYS);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(ret, &attr, thread_main, &spawn);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (r == 0) {
        while (sem_wait(&spawn.ready) < 0 && errno == EINTR)
            ;
        if (spawn.result < 0)
            pthread_join(*ret, NULL);
        r = -spawn.result;
    }
    sem_destroy(&spawn.ready);
    return -r;
}
