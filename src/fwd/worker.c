/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker.c
 *
 * A turn: sleep in epoll_wait(2), hand every event to whom it belongs, start the flows that others have
 * given, let flows and lodgers do what they put off. The queue of given flows is under a lock of its own,
 * held for a few instructions; the sleeper is woken by an eventcount (io/wakeup.h).
 *
 * The upper 8 bits of an event's data say whose it is (enum tag), the next 8 which lodger's.
 */
#include "fwd/worker.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/give_way.h"
#include "base/log.h"
#include "base/thread.h"
#include "fwd/half_open.h"
#include "io/wakeup.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

enum {
    EVENTS_MAX = 128,
    GIVEN_MAX = 1024,
    TABLE_MAX = 65536,      /* flows of one worker */
    PIPE_SIZE = 256 * 1024, /* bytes; pipe-user-pages-soft (64 MiB) is for all pipes of a user */
    PIPES_MAX = 16,         /* idle ones kept by one worker */
    WORKERS_MAX = 4,
    CPUS_PER_WORKER = 2,
    LODGERS_MAX = 2,
    HALF_OPEN_LOOK_MS = 1000, /* as a kernel in SYN_RECV: again after 1 s, 3 s, ...; 63 s is the end */
    LOOK_PLACES_MAX = 8192,   /* of the table, in one turn: some tens of microseconds */
    LOOK_MS = 1000,
    BYTES_MANY = 64 * 1024, /* in a turn: more than requests and answers */
};

enum tag { TAG_FLOWS = 1, TAG_WAKE, TAG_AGENT, TAG_LODGER };
enum { TAG_SHIFT = 56, LODGER_SHIFT = 48 };
#define VALUE_MASK ((UINT64_C(1) << LODGER_SHIFT) - 1)

struct given {
    int host_fd, guest_fd;
    uint32_t connect_ms;
    struct flow_user *user;
};

/* What the api asks a worker: tell of your flows from @from on. It waits; one question at a time. When it has
 * lost patience the answer still comes, and is thrown away before the next question. */
struct look {
    bool asked, answered; /* under lock */
    uint32_t from, max; /* the asker's until asked, then the worker's until answered; so are the next three */
    uint32_t n, next;
    struct flow_info rows[FLOW_ROWS_MAX];
};

struct worker {
    struct workers *group;
    char name[16];
    int epoll_fd;
    bool owns_epoll;
    struct wakeup wake;
    pthread_t thread;
    bool started; /* main's */
    _Atomic bool turn_wanted;
    _Atomic uint32_t load; /* flows, roughly */

    struct flows *flows OWNED_BY(role_fwd);
    uint64_t turn_bytes OWNED_BY(role_fwd); /* moved since the last turn ended */
    struct give_way give_way OWNED_BY(role_fwd);

    pthread_mutex_t lock;          /* innermost */
    struct given given[GIVEN_MAX]; /* under lock */
    uint32_t n_given;              /* under lock */

    _Atomic bool look_wanted;
    pthread_cond_t looked; /* with lock */
    struct look look;      /* see there */
};

struct workers {
    struct worker *worker[WORKERS_MAX]; /* fixed before threads start, as are the next three */
    unsigned n;
    struct lodger lodgers[LODGERS_MAX];
    unsigned n_lodgers;
    struct agent *agent; /* the first worker's; NULL: none, or it is gone */
    bool shared;         /* fixed before threads start: the first worker runs on somebody else's loop */
    _Atomic bool stop;
    void (*on_closed)(void *arg, const struct flow_info *info, bool reset); /* NULL: nobody; fixed */
    void *on_closed_arg;
};

static unsigned how_many(void)
{
    cpu_set_t set;
    unsigned n =
        sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (unsigned)CPU_COUNT(&set) / CPUS_PER_WORKER;

    return min_u32(max_u32(n, 1), WORKERS_MAX);
}

static int watch(const struct worker *w, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    return epoll_ctl(w->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

static uint64_t lodger_data(unsigned lodger, uint64_t value)
{
    return (uint64_t)TAG_LODGER << TAG_SHIFT | (uint64_t)lodger << LODGER_SHIFT | (value & VALUE_MASK);
}

int workers_watch(struct workers *w, unsigned lodger, int fd, uint32_t events, uint64_t value)
{
    return watch(w->worker[0], EPOLL_CTL_ADD, fd, events, lodger_data(lodger, value));
}

int workers_rewatch(struct workers *w, unsigned lodger, int fd, uint32_t events, uint64_t value)
{
    return watch(w->worker[0], EPOLL_CTL_MOD, fd, events, lodger_data(lodger, value));
}

void workers_unwatch(struct workers *w, int fd)
{
    (void)watch(w->worker[0], EPOLL_CTL_DEL, fd, 0, 0); /* it was there */
}

/* ---- flows ---- */

static void on_flow_end(void *arg, void *user_arg, enum flow_end end, int connect_error, int host_fd)
{
    struct worker *w = arg;
    struct flow_user *user = user_arg;

    atomic_fetch_sub_explicit(&w->load, 1, memory_order_relaxed); /* a hint */
    user->owner->on_end(user, end, connect_error, host_fd);
}

static void on_flow_bytes(void *arg, void *user_arg, uint64_t to_guest, uint64_t to_host)
{
    struct worker *w = arg;
    struct flow_user *user = user_arg;

    role_assert(&role_fwd);
    w->turn_bytes += to_guest + to_host;
    counter_add_shared(COUNTER_splice_bytes, to_guest + to_host);
    user->owner->on_bytes(user, to_guest, to_host);
}

static void on_flow_connected(void *arg, void *user_arg)
{
    struct flow_user *user = user_arg;

    (void)arg;
    if (user->owner->on_connected)
        user->owner->on_connected(user);
}

static bool on_flow_late(void *arg, void *user_arg, int64_t waited_ns)
{
    struct flow_user *user = user_arg;

    (void)arg;
    return user->owner->on_late && user->owner->on_late(user, waited_ns);
}

static void on_flow_silent(void *arg, void *user_arg)
{
    struct flow_user *user = user_arg;

    (void)arg;
    user->owner->on_silent(user);
}

static void tell(struct flow_info *ret, const struct flow_look *look, int64_t now_ns)
{
    const struct flow_user *user = look->user;

    *ret = (struct flow_info){
        .tier = user->owner->tier,
        .proto = IPPROTO_TCP,
        .to_guest = look->to_guest,
        .to_host = look->to_host,
        .age_ns = now_ns - look->started_ns,
    };
    snprintf(ret->state, sizeof(ret->state), "%s", look->state);
    user->owner->describe(user, ret);
}

static void on_flow_closing(void *arg, const struct flow_look *look, enum flow_end end)
{
    struct worker *w = arg;
    struct flow_info info;

    if (!w->group->on_closed || end == FLOW_REFUSED)
        return;
    tell(&info, look, clock_monotonic_ns());
    w->group->on_closed(w->group->on_closed_arg, &info, end == FLOW_RESET);
}

void workers_on_closed(struct workers *w, void (*hook)(void *arg, const struct flow_info *info, bool reset),
                       void *arg)
{
    w->on_closed = hook;
    w->on_closed_arg = arg;
}

static void notify(struct worker *w)
{
    /* Release, pairs with the exchange in start_given(): what was published before is seen in that turn. */
    atomic_store_explicit(&w->turn_wanted, true, memory_order_release);
    wakeup_notify(&w->wake);
}

void workers_notify(struct workers *w)
{
    notify(w->worker[0]);
}

int workers_give(struct workers *w, int host_fd, int guest_fd, uint32_t connect_ms, struct flow_user *user)
{
    struct worker *least = w->worker[0];
    int r = 0;

    for (unsigned i = 1; i < w->n; i++) {
        if (atomic_load_explicit(&w->worker[i]->load, memory_order_relaxed) < /* a hint */
            atomic_load_explicit(&least->load, memory_order_relaxed))
            least = w->worker[i];
    }
    pthread_mutex_lock(&least->lock);
    if (least->n_given == GIVEN_MAX)
        r = -ENOSPC;
    else
        least->given[least->n_given++] = (struct given){host_fd, guest_fd, connect_ms, user};
    pthread_mutex_unlock(&least->lock);
    if (r == 0) {
        atomic_fetch_add_explicit(&least->load, 1, memory_order_relaxed); /* a hint */
        notify(least);
    }
    return r;
}

static void start_given(struct worker *w) RUNS_ON(role_fwd)
{
    /* Acquire, pairs with notify(). */
    if (!atomic_exchange_explicit(&w->turn_wanted, false, memory_order_acquire))
        return;
    for (;;) {
        struct given g = {0};
        bool got;
        int r;

        pthread_mutex_lock(&w->lock);
        got = w->n_given > 0;
        if (got)
            g = w->given[--w->n_given];
        pthread_mutex_unlock(&w->lock);
        if (!got)
            return;
        r = flow_start(w->flows, g.host_fd, g.guest_fd, g.connect_ms, g.user);
        if (r < 0) {
            close(g.guest_fd);
            on_flow_end(w, g.user, FLOW_REFUSED, -r, g.host_fd);
        }
    }
}

/* ---- looking at the flows ---- */

static bool look_visit(void *arg, const struct flow_look *flow)
{
    struct look *look = arg;

    tell(&look->rows[look->n++], flow, clock_monotonic_ns());
    return look->n < look->max;
}

static void answer_look(struct worker *w) RUNS_ON(role_fwd)
{
    /* Acquire, pairs with ask(): the question is complete. */
    if (!atomic_load_explicit(&w->look_wanted, memory_order_acquire))
        return;
    atomic_store_explicit(&w->look_wanted, false, memory_order_relaxed); /* the next one follows an answer */
    w->look.n = 0;
    w->look.next = flows_look(w->flows, w->look.from, LOOK_PLACES_MAX, look_visit, &w->look);
    pthread_mutex_lock(&w->lock);
    w->look.answered = true;
    pthread_cond_signal(&w->looked);
    pthread_mutex_unlock(&w->lock);
}

static bool await_answer(struct worker *w)
{
    int64_t until_ns = clock_monotonic_ns() + LOOK_MS * NS_PER_MS;
    struct timespec until = {.tv_sec = until_ns / NS_PER_S, .tv_nsec = until_ns % NS_PER_S};
    bool answered;
    int r = 0;

    pthread_mutex_lock(&w->lock);
    while (w->look.asked && !w->look.answered && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&w->looked, &w->lock, &until);
    answered = !w->look.asked || w->look.answered;
    if (answered)
        w->look.asked = w->look.answered = false;
    pthread_mutex_unlock(&w->lock);
    return answered;
}

static int ask(struct worker *w, uint32_t from, uint32_t max)
{
    if (!await_answer(w)) /* to a question that nobody waited for any more */
        return -ETIMEDOUT;
    w->look.from = from;
    w->look.max = max;
    pthread_mutex_lock(&w->lock);
    w->look.asked = true;
    pthread_mutex_unlock(&w->lock);
    /* Release, pairs with answer_look(). */
    atomic_store_explicit(&w->look_wanted, true, memory_order_release);
    notify(w);
    return await_answer(w) ? 0 : -ETIMEDOUT;
}

int workers_list_flows(struct workers *w, uint64_t from, struct flow_info *rows, uint32_t max,
                       uint64_t *ret_next)
{
    uint32_t index = (uint32_t)(from >> 32);
    const struct look *look;
    int r;

    *ret_next = 0;
    if (index >= w->n || max == 0)
        return 0;
    r = ask(w->worker[index], (uint32_t)from, min_u32(max, FLOW_ROWS_MAX));
    if (r < 0)
        return r;
    look = &w->worker[index]->look;
    memcpy(rows, look->rows, look->n * sizeof(rows[0]));
    if (look->next != UINT32_MAX)
        *ret_next = (uint64_t)index << 32 | look->next;
    else if (index + 1 < w->n)
        *ret_next = (uint64_t)(index + 1) << 32;
    return (int)look->n;
}

/* ---- the loop ---- */

static int agent_watch(const struct workers *w)
{
    return watch(w->worker[0], EPOLL_CTL_ADD, agent_fd(w->agent), EPOLLIN, (uint64_t)TAG_AGENT << TAG_SHIFT);
}

static void agent_event(struct workers *w) RUNS_ON(role_fwd)
{
    const char *why = NULL;

    if (!w->agent || agent_read(w->agent) == 0)
        return;
    (void)watch(w->worker[0], EPOLL_CTL_DEL, agent_fd(w->agent), 0, 0);
    counter_add_shared(COUNTER_agent_lost, 1);
    if (agent_restart(w->agent, &why) == 0 && agent_watch(w) < 0) {
        why = "the next one's socket cannot be watched";
        agent_abandon(w->agent);
    }
    if (!why) {
        counter_add_shared(COUNTER_agent_restarts, 1);
        log_warning("the agent in the guest's namespace has ended: another one takes its place");
        return;
    }
    log_warning("the agent in the guest's namespace has ended, and no other takes its place (%s): new "
                "connections take the slower path through libslirp",
                why);
}

struct agent *workers_agent(struct workers *w)
{
    return w->agent;
}

static void dispatch(struct worker *w, uint64_t data, uint32_t events) RUNS_ON(role_fwd)
{
    const struct lodger *lodger;

    switch ((enum tag)(data >> TAG_SHIFT)) {
    case TAG_FLOWS:
        flows_event(w->flows, data, events);
        break;
    case TAG_WAKE:
        wakeup_drain(&w->wake);
        break;
    case TAG_AGENT:
        agent_event(w->group);
        break;
    case TAG_LODGER:
        lodger = &w->group->lodgers[(data >> LODGER_SHIFT) & 0xff];
        lodger->on_event(lodger->arg, data & VALUE_MASK, events);
        break;
    }
}

static int earlier(int a, int b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

static int turn(struct worker *w) RUNS_ON(role_fwd)
{
    bool busy;
    int sleep_ms;

    start_given(w);
    sleep_ms = flows_turn(w->flows);
    busy = w->turn_bytes >= BYTES_MANY;
    w->turn_bytes = 0;
    answer_look(w);
    for (unsigned i = 0; i < w->group->n_lodgers && w == w->group->worker[0]; i++) {
        const struct lodger *lodger = &w->group->lodgers[i];

        sleep_ms = earlier(sleep_ms, lodger->on_turn(lodger->arg));
    }
    /* Not with more to do: a stream has flow control, and bulk was a sixth slower so. */
    if (busy && sleep_ms != 0)
        give_way(&w->give_way);
    return sleep_ms;
}

void workers_event(struct workers *w, uint64_t tag, uint32_t events)
{
    dispatch(w->worker[0], tag, events);
}

int workers_turn(struct workers *w)
{
    return turn(w->worker[0]);
}

bool workers_wanted(const struct workers *w)
{
    /* Relaxed: a look; before sleeping it comes after the fence in wakeup_prepare(). */
    return atomic_load_explicit(&w->worker[0]->turn_wanted, memory_order_relaxed);
}

void workers_prepare(struct workers *w)
{
    wakeup_prepare(&w->worker[0]->wake);
}

void workers_cancel(struct workers *w)
{
    wakeup_cancel(&w->worker[0]->wake);
}

static void run(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[EVENTS_MAX];

    role_enter(&role_fwd);
    /* Relaxed: the wake-up that comes with a stop orders it. */
    while (!atomic_load_explicit(&w->group->stop, memory_order_relaxed)) {
        int sleep_ms = turn(w), n;

        thread_count_turn();
        if (sleep_ms != 0) {
            wakeup_prepare(&w->wake);
            /* Relaxed: after the fence in wakeup_prepare(); see io/wakeup.h. */
            if (atomic_load_explicit(&w->turn_wanted, memory_order_relaxed) ||
                atomic_load_explicit(&w->group->stop, memory_order_relaxed))
                sleep_ms = 0;
        }
        n = epoll_wait(w->epoll_fd, events, EVENTS_MAX, sleep_ms);
        wakeup_cancel(&w->wake);
        if (n < 0 && errno != EINTR) {
            log_error("%s: epoll_wait: %m; forwards do not work any more", w->name);
            break;
        }
        for (int i = 0; i < n; i++)
            dispatch(w, events[i].data.u64, events[i].events);
    }
    role_leave(&role_fwd);
}

/* ---- life cycle: main ---- */

static struct worker *worker_free(struct worker *w) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!w)
        return NULL;
    for (uint32_t i = 0; i < w->n_given; i++) {
        close(w->given[i].guest_fd);
        close(w->given[i].host_fd);
    }
    flows_free(w->flows);
    if (w->owns_epoll)
        closep(&w->epoll_fd);
    wakeup_deinit(&w->wake);
    pthread_cond_destroy(&w->looked);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return NULL;
}

/* @n: how many workers there will be. */
static int worker_new(struct worker **ret, struct workers *group, unsigned index, unsigned n, int epoll_fd)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    struct worker *w = calloc(1, sizeof(*w));
    struct flows_config config = {
        .tag_base = (uint64_t)TAG_FLOWS << TAG_SHIFT,
        .flows_max = TABLE_MAX,
        .pipe_size = PIPE_SIZE,
        .pipes_max = PIPES_MAX,
        .half_open_max = max_u32(half_open_silent_max() / n, 1),
        .half_open_look_ms = HALF_OPEN_LOOK_MS,
        .arg = w,
        .on_end = on_flow_end,
        .on_bytes = on_flow_bytes,
        .on_connected = on_flow_connected,
        .on_late = on_flow_late,
        .on_silent = on_flow_silent,
        .on_closing = on_flow_closing,
    };
    pthread_condattr_t monotonic;
    int r;

    if (!w)
        return -ENOMEM;
    w->group = group;
    snprintf(w->name, sizeof(w->name), "fwd-%u", index);
    w->wake = (struct wakeup)WAKEUP_NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->looked, &monotonic);
    pthread_condattr_destroy(&monotonic);
    w->owns_epoll = epoll_fd < 0;
    w->epoll_fd = w->owns_epoll ? epoll_create1(EPOLL_CLOEXEC) : epoll_fd;
    r = w->epoll_fd < 0 ? -errno : wakeup_init(&w->wake);
    if (r == 0)
        r = watch(w, EPOLL_CTL_ADD, w->wake.fd, EPOLLIN, (uint64_t)TAG_WAKE << TAG_SHIFT);
    if (r == 0) {
        config.epoll_fd = w->epoll_fd;
        r = flows_new(&w->flows, &config);
    }
    if (r < 0)
        w = worker_free(w);
    *ret = w;
    return r;
}

int workers_new(struct workers **ret, struct agent *agent, int epoll_fd, struct failure *why)
{
    struct workers *w = calloc(1, sizeof(*w));
    unsigned n = agent ? how_many() : 1; /* without an agent nothing is spliced */
    int r = 0;

    if (!w)
        return failure(why, -ENOMEM, NULL, "cannot allocate the forwarding workers");
    w->agent = agent;
    w->shared = epoll_fd >= 0;
    for (; w->n < n && r == 0; w->n += r == 0)
        r = worker_new(&w->worker[w->n], w, w->n, n, w->n == 0 ? epoll_fd : -1);
    if (r < 0) {
        workers_free(w);
        return failure(why, r, "raise RLIMIT_NOFILE", "cannot make the forwarding workers");
    }
    *ret = w;
    return 0;
}

unsigned workers_lodge(struct workers *w, const struct lodger *lodger)
{
    w->lodgers[w->n_lodgers] = *lodger;
    return w->n_lodgers++;
}

int workers_start(struct workers *w, struct failure *why) TSA(no_thread_safety_analysis) /* they start here */
{
    int r = w->agent && !agent_is_gone(w->agent) ? agent_watch(w) : 0;

    if (r < 0)
        return failure(why, r, NULL, "cannot watch the agent");
    for (unsigned i = w->shared ? 1 : 0; i < w->n; i++) {
        struct thread_start start = {
            .name = w->worker[i]->name, .duties = DUTY_FWD, .run = run, .arg = w->worker[i]};
        r = thread_spawn(&w->worker[i]->thread, &start);
        if (r < 0) {
            workers_stop(w);
            return failure(why, r, "raise RLIMIT_NPROC", "cannot start a forwarding thread");
        }
        w->worker[i]->started = true;
    }
    return 0;
}

void workers_stop(struct workers *w)
{
    atomic_store_explicit(&w->stop, true, memory_order_relaxed); /* ordered by the eventfds */
    for (unsigned i = 0; i < w->n; i++) {
        if (!w->worker[i]->started)
            continue;
        wakeup_send(&w->worker[i]->wake);
        pthread_join(w->worker[i]->thread, NULL);
        w->worker[i]->started = false;
    }
}

struct workers *workers_free(struct workers *w)
{
    if (!w)
        return NULL;
    for (unsigned i = 0; i < w->n; i++)
        worker_free(w->worker[i]);
    free(w);
    return NULL;
}
