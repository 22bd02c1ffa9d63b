/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/fd_passing.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SENT = 5 };

static int pair[2];

static int setup(void **state)
{
    (void)state;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
    (void)state;
    closep(&pair[0]);
    closep(&pair[1]);
    return 0;
}

/* A message with copies of the writing end of a pipe, which nobody but the message has then. Returns the
 * reading end, which ends when the last copy is closed. */
static int send_copies(const char *text, uint32_t n)
{
    int ends[2], fds[SENT];

    assert_true(n <= SENT);
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    for (uint32_t i = 0; i < n; i++)
        fds[i] = ends[1];
    assert_int_equal(fd_passing_send(pair[0], text, strlen(text), fds, n, 0), 0);
    close(ends[1]);
    return ends[0];
}

static bool has_ended(int fd)
{
    char byte;

    return read(fd, &byte, 1) == 0;
}

static void test_descriptors_arrive_with_their_message(void **state)
{
    char data[8];
    struct fd_passing with;
    int end = send_copies("three", 3);

    (void)state;
    assert_int_equal(fd_passing_send(pair[0], "none", 4, NULL, 0, 0), 0);
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), 5);
    assert_memory_equal(data, "three", 5);
    assert_int_equal(with.n_fds, 3);
    assert_false(with.cut);
    for (uint32_t i = 0; i < with.n_fds; i++) {
        assert_true(fcntl(with.fds[i], F_GETFD) & FD_CLOEXEC);
        assert_int_equal(write(with.fds[i], "x", 1), 1);
    }
    assert_int_equal(read(end, data, sizeof(data)), 3);
    assert_false(has_ended(end));
    fd_passing_close(&with);
    assert_int_equal(with.n_fds, 0);
    assert_true(has_ended(end));
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), 4);
    assert_int_equal(with.n_fds, 0);
    assert_false(with.cut);
    close(end);
}

/* No more than asked for, also where an aligned control message has room for another one. */
static void test_there_are_no_more_than_asked_for(void **state)
{
    for (uint32_t max = 1; max < SENT; max++) {
        char data[8];
        struct fd_passing with;
        int end = send_copies("x", SENT);

        (void)state;
        assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), max, &with, 0), 1);
        assert_int_equal(with.n_fds, max);
        assert_true(with.cut);
        fd_passing_close(&with);
        assert_true(has_ended(end));
        close(end);
    }
}

static void test_without_descriptors_to_spare_there_are_fewer(void **state)
{
    struct rlimit before, few;
    struct fd_passing with;
    char data[8];
    int end = send_copies("x", SENT), next = dup(end);

    (void)state;
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)next + 2;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(with.n_fds, 2);
    assert_true(with.cut);
    fd_passing_close(&with);
    assert_true(has_ended(end));
    close(end);
}

static void test_a_message_that_is_too_long_is_lost(void **state)
{
    char data[4];
    struct fd_passing with;
    int end = send_copies("too long", 2);

    (void)state;
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), -EMSGSIZE);
    assert_int_equal(with.n_fds, 0);
    assert_true(has_ended(end));
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), 1, &with, MSG_DONTWAIT), -EAGAIN);
    assert_int_equal(with.n_fds, 0);
    close(end);
}

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* Whoever made the socket may have asked the kernel for a pidfd of each sender: nobody would close it. */
static void test_nothing_else_is_kept(void **state)
{
    static const int on = 1;
    struct fd_passing with;
    char data[8];
    int end, before, after;

    (void)state;
    if (setsockopt(pair[1], SOL_SOCKET, SO_PASSPIDFD, &on, sizeof(on)) < 0) {
        print_message("SKIP: no SO_PASSPIDFD (Linux 6.5)\n");
        skip();
    }
    end = send_copies("x", 2);
    before = dup(end);
    close(before);
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), 1);
    assert_int_equal(with.n_fds, 2);
    fd_passing_close(&with);
    after = dup(end);
    close(after);
    assert_int_equal(after, before); /* the lowest number that is free */
    close(end);
}

static void test_the_end(void **state)
{
    char data[4];
    struct fd_passing with;

    (void)state;
    closep(&pair[0]);
    assert_int_equal(fd_passing_receive(pair[1], data, sizeof(data), FD_PASSING_MAX, &with, 0), 0);
    assert_int_equal(with.n_fds, 0);
    assert_int_equal(fd_passing_send(pair[1], "x", 1, NULL, 0, 0), -EPIPE); /* and no signal */
    assert_int_equal(fd_passing_receive(-1, data, sizeof(data), FD_PASSING_MAX, &with, 0), -EBADF);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_descriptors_arrive_with_their_message),
        TEST(test_there_are_no_more_than_asked_for),
        TEST(test_without_descriptors_to_spare_there_are_fewer),
        TEST(test_a_message_that_is_too_long_is_lost),
        TEST(test_nothing_else_is_kept),
        TEST(test_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
