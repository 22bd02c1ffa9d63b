/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Looking at the flows of workers that run. ThreadSanitizer is the judge of what is not asserted. */
#include "fwd/worker.h"

#include "base/bits.h"
#include "base/thread.h"
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { N_FLOWS = 300, LOOKS = 300, MESSAGE = 100 };

struct user {
    struct flow_user user;
    uint32_t number;
    int host_fd, guest_fd; /* our ends */
    bool ended;            /* the worker's; read after it has stopped */
};

static struct workers *workers;
static struct user users[N_FLOWS];
static _Atomic unsigned n_ended, n_closed;
static _Atomic uint64_t n_closed_bytes;

static void on_end(struct flow_user *user, enum flow_end end, int connect_error, int host_fd)
{
    assert_int_not_equal(end, FLOW_REFUSED);
    (void)connect_error;
    (void)host_fd;
    ((struct user *)user)->ended = true;
    atomic_fetch_add_explicit(&n_ended, 1, memory_order_release);
}

static void on_bytes(struct flow_user *user, uint64_t to_guest, uint64_t to_host)
{
    (void)user;
    (void)to_guest;
    (void)to_host;
}

static void describe(const struct flow_user *user, struct flow_info *info)
{
    const struct user *u = (const struct user *)user;

    info->guest.sa.sa_family = AF_INET;
    address_set_port(&info->guest, (uint16_t)u->number);
}

static const struct flow_owner owner = {
    .on_end = on_end, .on_bytes = on_bytes, .tier = "test", .describe = describe};

static void on_closed(void *arg, const struct flow_info *info, bool reset)
{
    assert_ptr_equal(arg, &workers);
    assert_string_equal(info->tier, "test");
    (void)reset;
    atomic_fetch_add_explicit(&n_closed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_closed_bytes, info->to_guest + info->to_host, memory_order_relaxed);
}

static void give(struct user *u, uint32_t number)
{
    int host[2], guest[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, host), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, guest), 0);
    *u = (struct user){.user.owner = &owner, .number = number, .host_fd = host[0], .guest_fd = guest[0]};
    while (workers_give(workers, host[1], guest[1], 0, &u->user) == -ENOSPC)
        sched_yield();
}

static void exchange(int from, int to)
{
    char bytes[MESSAGE];
    size_t n = 0;

    memset(bytes, 'x', sizeof(bytes));
    assert_int_equal(write(from, bytes, sizeof(bytes)), sizeof(bytes));
    while (n < sizeof(bytes)) {
        ssize_t got = read(to, bytes + n, sizeof(bytes) - n);

        if (got > 0)
            n += (size_t)got;
        else
            assert_true(got < 0 && errno == EAGAIN);
    }
}

static void *talk(void *arg)
{
    (void)arg;
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < N_FLOWS; i++)
            exchange(round % 2 ? users[i].host_fd : users[i].guest_fd,
                     round % 2 ? users[i].guest_fd : users[i].host_fd);
    }
    return NULL;
}

static int list(uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next) RUNS_ON(role_api)
{
    int n;

    do
        n = workers_list_flows(workers, from, rows, max, ret_next);
    while (n == -ETIMEDOUT); /* a worker that gets no processor; alarm(2) or meson's patience ends it */
    return n;
}

/* Every flow once, with what it has moved so far in @ret_bytes. Returns how many there are. */
static unsigned look(uint32_t max, uint64_t *ret_bytes) TSA(no_thread_safety_analysis) /* we are the api */
{
    static bool seen[N_FLOWS];
    struct flow_info rows[FLOW_ROWS_MAX];
    uint64_t next = 0;
    unsigned n = 0;

    memset(seen, 0, sizeof(seen));
    *ret_bytes = 0;
    do {
        int n_page = list(next, rows, max, &next);

        assert_in_range(n_page, 0, max);
        for (int i = 0; i < n_page; i++) {
            uint16_t number = address_port(&rows[i].guest);

            assert_in_range(number, 0, N_FLOWS - 1);
            assert_false(seen[number]);
            seen[number] = true;
            assert_string_equal(rows[i].tier, "test");
            assert_int_equal(rows[i].proto, IPPROTO_TCP);
            assert_true(rows[i].age_ns >= 0);
            *ret_bytes += rows[i].to_guest + rows[i].to_host;
        }
        n += (unsigned)n_page;
    } while (next > 0);
    return n;
}

/* An ordinary user's 1024 are too few for N_FLOWS; the program does the same. */
static void descriptors_raise(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static int start(void **state)
{
    struct failure why = FAILURE_NULL;

    (void)state;
    descriptors_raise();
    signal(SIGPIPE, SIG_IGN);
    n_ended = n_closed = 0;
    n_closed_bytes = 0;
    assert_int_equal(workers_new(&workers, NULL, -1, &why), 0);
    workers_on_closed(workers, on_closed, &workers);
    assert_int_equal(workers_start(workers, &why), 0);
    for (unsigned i = 0; i < N_FLOWS; i++)
        give(&users[i], i);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    workers_stop(workers);
    workers = workers_free(workers);
    for (unsigned i = 0; i < N_FLOWS; i++) {
        close(users[i].host_fd);
        close(users[i].guest_fd);
    }
    return 0;
}

static void test_flows_are_seen_while_they_move_bytes(void **state)
{
    pthread_t thread;
    uint64_t bytes = 0, before;

    (void)state;
    exchange(users[N_FLOWS - 1].host_fd, users[N_FLOWS - 1].guest_fd);
    while (look(FLOW_ROWS_MAX, &bytes) < N_FLOWS) /* the worker takes what it was given in its own time */
        sched_yield();
    assert_int_equal(pthread_create(&thread, NULL, talk, NULL), 0);
    for (unsigned i = 0; i < LOOKS; i++) {
        before = bytes;
        assert_int_equal(look(1 + i % FLOW_ROWS_MAX, &bytes), N_FLOWS);
        assert_true(bytes >= before);
    }
    pthread_join(thread, NULL);
    assert_int_equal(look(FLOW_ROWS_MAX, &bytes), N_FLOWS);
    assert_int_equal(bytes, 20 * N_FLOWS * MESSAGE + MESSAGE);
}

static void test_each_end_is_told_once_with_all_bytes(void **state)
{
    uint64_t bytes;

    (void)state;
    talk(NULL);
    for (unsigned i = 0; i < N_FLOWS; i++) {
        shutdown(users[i].host_fd, SHUT_WR);
        shutdown(users[i].guest_fd, SHUT_WR);
    }
    while (atomic_load_explicit(&n_ended, memory_order_acquire) < N_FLOWS)
        sched_yield();
    assert_int_equal(n_closed, N_FLOWS);
    assert_int_equal(n_closed_bytes, 20 * N_FLOWS * MESSAGE);
    assert_int_equal(look(FLOW_ROWS_MAX, &bytes), 0);
}

static void test_positions_that_do_not_exist_are_the_end(void **state)
{
    static const uint64_t odd[] = {UINT32_MAX, UINT64_C(1) << 32, UINT64_C(77) << 32, FLOW_POSITIONS - 1};
    struct flow_info rows[FLOW_ROWS_MAX];
    uint64_t next;

    (void)state;
    role_enter(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(odd); i++) {
        assert_int_equal(list(odd[i], rows, FLOW_ROWS_MAX, &next), 0);
        assert_int_equal(next, 0);
    }
    role_leave(&role_api);
}

static void test_threads_are_shown_with_what_they_did(void **state)
{
    struct thread_info rows[THREADS_MAX];
    unsigned n, found = 0;
    uint64_t bytes;

    (void)state;
    for (int i = 0; i < 2; i++) /* the answer may be given in the first turn, which counts when it is over */
        (void)look(FLOW_ROWS_MAX, &bytes);
    n = threads_info(rows);
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(rows[i].name, "fwd-0") == 0 && rows[i].turns > 0)
            found++;
    }
    assert_in_range(found, 1, THREADS_MAX);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_flows_are_seen_while_they_move_bytes, start, stop),
        cmocka_unit_test_setup_teardown(test_each_end_is_told_once_with_all_bytes, start, stop),
        cmocka_unit_test_setup_teardown(test_positions_that_do_not_exist_are_the_end, start, stop),
        cmocka_unit_test_setup_teardown(test_threads_are_shown_with_what_they_did, start, stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
