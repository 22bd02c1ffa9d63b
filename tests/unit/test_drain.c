/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/drain.h"

#include "base/bits.h"
#include "base/clock.h"
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WAIT_MS = 5000, BUFFER = 1 << 16 };

static struct drains drains;
static struct drain drain;
static uint32_t n_over, n_lost;
static uint8_t bytes[BUFFER];

static void on_over(void *arg, struct drain *d, bool lost)
{
    assert_ptr_equal(arg, &drains);
    assert_ptr_equal(d, &drain);
    drain_remove(d);
    n_over++;
    n_lost += lost;
}

/* A connection over lo; fds[1] reads. */
static void connection(int fds[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(in);
    int listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), few = 4096;

    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listen_fd >= 0 && fds[0] >= 0);
    assert_int_equal(setsockopt(listen_fd, SOL_SOCKET, SO_RCVBUF, &few, sizeof(few)), 0);
    assert_int_equal(bind(listen_fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(listen_fd, 1), 0);
    assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&in, &size), 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&in, sizeof(in)), 0);
    fds[1] = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fds[1] >= 0);
    close(listen_fd);
    drains_init(&drains);
    drains.arg = &drains;
    drains.on_over = on_over;
    link_init(&drain.link);
    n_over = n_lost = 0;
}

static void fill(int fd)
{
    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
}

static void turn_until_over(int read_fd)
{
    int64_t end_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (n_over == 0) {
        assert_true(clock_monotonic_ns() < end_ns);
        while (read_fd >= 0 && recv(read_fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            ;
        drains_turn(&drains);
        usleep(1000);
    }
    assert_int_equal(n_over, 1);
    assert_true(drains_until_ns(&drains) == INT64_MAX);
}

static void test_what_has_arrived_is_not_waited_for(void **state)
{
    int fds[2];

    (void)state;
    connection(fds);
    assert_int_equal(send(fds[0], "x", 1, 0), 1);
    assert_int_equal(recv(fds[1], bytes, 1, 0), 1);
    assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
    assert_int_equal(shutdown(fds[0], SHUT_WR), 0); /* the FIN may be on its way */
    assert_false(drain_add(&drains, &drain, fds[0]));
    assert_true(drains_until_ns(&drains) == INT64_MAX);
    close(fds[0]);
    close(fds[1]);
}

static void test_it_is_over_when_the_reader_has_all(void **state)
{
    int64_t before_ns = clock_monotonic_ns();
    int fds[2];

    (void)state;
    connection(fds);
    fill(fds[0]);
    assert_true(drain_add(&drains, &drain, fds[0]));
    assert_true(drains_until_ns(&drains) >= before_ns + DRAIN_LOOK_MS * NS_PER_MS);
    drains_turn(&drains);
    assert_int_equal(n_over, 0);
    assert_int_equal(shutdown(fds[0], SHUT_WR), 0);
    turn_until_over(fds[1]);
    assert_int_equal(n_lost, 0);
    close(fds[0]);
    close(fds[1]);
}

static void test_a_reset_is_the_end(void **state)
{
    static const struct linger now = {.l_onoff = 1};
    int fds[2];

    (void)state;
    connection(fds);
    fill(fds[0]);
    assert_true(drain_add(&drains, &drain, fds[0]));
    assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
    close(fds[1]);
    turn_until_over(-1);
    close(fds[0]);
}

static void test_a_reader_that_takes_nothing_has_a_bound(void **state)
{
    int64_t end_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
    int fds[2];

    (void)state;
    connection(fds);
    fill(fds[0]);
    assert_true(drain_add(&drains, &drain, fds[0]));
    while (n_over == 0) { /* the kernel may take some more yet */
        assert_true(clock_monotonic_ns() < end_ns);
        drain.progress_ns -= DRAIN_SILENT_MS * NS_PER_MS; /* time passes */
        drains_turn(&drains);
        usleep(1000);
    }
    assert_int_equal(n_lost, 1);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_has_arrived_is_not_waited_for),
        cmocka_unit_test(test_it_is_over_when_the_reader_has_all),
        cmocka_unit_test(test_a_reset_is_the_end),
        cmocka_unit_test(test_a_reader_that_takes_nothing_has_a_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
