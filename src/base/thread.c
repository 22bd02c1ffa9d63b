/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/thread.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>

/* libslirp keeps whole 64 KiB packets on its stack (if_encap), more than once in a chain of calls. */
enum { THREAD_STACK_SIZE = 1 << 20 };

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
    r = start.prepare ? start.prepare(start.arg) : 0;
    spawn->result = r;
    sem_post(&spawn->ready); /* @spawn is gone from here on */
    if (r == 0)
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
