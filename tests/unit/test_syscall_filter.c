/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Filters that list what is allowed, each in a process of its own. */
#include "base/bits.h"
#include "base/syscall_filter.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DUTY_A = 1, DUTY_B = 2, DUTY_BOTH = 3 };

static const struct syscall_rule rules[] = {
    ALLOW("read", DUTY_BOTH),
    ALLOW("write", DUTY_BOTH),
    ALLOW("exit_group", DUTY_BOTH),
    ALLOW("exit", DUTY_BOTH),
    ALLOW("futex", DUTY_BOTH),
    ALLOW("seccomp", DUTY_BOTH),
    ALLOW("rt_sigprocmask", DUTY_BOTH),
    ALLOW("madvise", DUTY_BOTH),
    ALLOW("munmap", DUTY_BOTH),
    ALLOW("mmap", DUTY_BOTH),
    ALLOW("mprotect", DUTY_BOTH),
    ALLOW("brk", DUTY_BOTH),
    ALLOW("clone", DUTY_BOTH),
    ANSWER("clone3", DUTY_BOTH, ENOSYS),
    ALLOW("set_robust_list", DUTY_BOTH),
    ALLOW("rseq", DUTY_BOTH),
    ALLOW("sched_getaffinity", DUTY_BOTH),
    ALLOW("prlimit64", DUTY_BOTH),
    ALLOW("gettid", DUTY_BOTH), /* a sanitizer's, for a thread that has just begun */
    ALLOW("getppid", DUTY_A),
    ALLOW("socket", DUTY_A, ARG_IS(0, AF_INET), ARG_BITS(1, ~SOCK_CLOEXEC, SOCK_STREAM)),
    ANSWER("chdir", DUTY_A, ENOTDIR),
    ALLOW("no_such_system_call", DUTY_A),
};

static void say(int number, const char *name)
{
    (void)number;
    if (write(STDERR_FILENO, name, strlen(name)) < 0)
        _exit(99);
}

static void load(uint32_t duties, enum syscall_filter_scope scope)
{
    if (syscall_filter_load(rules, ARRAY_SIZE(rules), duties, scope, "test", NULL) < 0)
        _exit(98);
}

struct end {
    int status;    /* waitpid(2) */
    char said[64]; /* by the hook */
};

/* @what in a process of its own, with the filter of @duties. */
static struct end in_child(uint32_t duties, void (*what)(void))
{
    struct end end = {.status = 0};
    int fds[2];
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall_filter_watch(say) < 0)
            _exit(97);
        if (duties)
            load(duties, FILTER_THIS_THREAD);
        what();
        _exit(0);
    }
    close(fds[1]);
    assert_int_equal(waitpid(pid, &end.status, 0), pid);
    assert_true(read(fds[0], end.said, sizeof(end.said) - 1) >= 0);
    close(fds[0]);
    return end;
}

static void assert_killed(struct end end, const char *name)
{
    assert_true(WIFSIGNALED(end.status));
    assert_int_equal(WTERMSIG(end.status), SIGSYS);
    assert_string_equal(end.said, name);
}

static void assert_fine(struct end end)
{
    assert_true(WIFEXITED(end.status));
    assert_int_equal(WEXITSTATUS(end.status), 0);
    assert_string_equal(end.said, "");
}

static void parent(void)
{
    (void)syscall(SYS_getppid);
}

static void root_change(void)
{
    (void)syscall(SYS_chroot, "/");
}

static void test_a_call_that_is_not_listed_is_named_and_kills(void **state)
{
    (void)state;
    assert_killed(in_child(DUTY_A, root_change), "chroot");
}

static void test_duties_have_calls_of_their_own(void **state)
{
    (void)state;
    assert_fine(in_child(DUTY_A, parent));
    assert_fine(in_child(DUTY_BOTH, parent));
#if !SYSCALL_FILTER_SANITIZED /* it is one of those that sanitizers need */
    assert_killed(in_child(DUTY_B, parent), "getppid");
#endif
}

static void stream_socket(void)
{
    if (syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0)
        _exit(1);
    /* The upper half of an int's register means nothing. */
    if (syscall(SYS_socket, (1ULL << 32) | AF_INET, SOCK_STREAM, 0) < 0)
        _exit(1);
}

static void datagram_socket(void)
{
    (void)syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0);
}

static void unix_socket(void)
{
    (void)syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
}

static void test_arguments_count(void **state)
{
    (void)state;
    assert_fine(in_child(DUTY_A, stream_socket));
    assert_killed(in_child(DUTY_A, datagram_socket), "socket");
    assert_killed(in_child(DUTY_A, unix_socket), "socket");
}

static void answered(void)
{
    if (syscall(SYS_chdir, "/") != -1 || errno != ENOTDIR)
        _exit(1);
}

static void test_an_answer_instead_of_the_call(void **state)
{
    (void)state;
    assert_fine(in_child(DUTY_A, answered));
}

static void narrow(void)
{
    load(DUTY_A, FILTER_THIS_THREAD);
    (void)syscall(SYS_getppid);
    load(DUTY_B, FILTER_THIS_THREAD);
    (void)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}

static void test_a_second_filter_takes_more_away(void **state)
{
    (void)state;
    assert_killed(in_child(0, narrow), "socket");
}

static int thread_pipe[2];

static void *in_thread(void *arg)
{
    char byte;

    (void)arg;
    (void)!read(thread_pipe[0], &byte, 1); /* made before the filter */
    (void)syscall(SYS_chroot, "/");
    return NULL;
}

static void other_threads(void)
{
    pthread_t thread;

    if (pipe(thread_pipe) < 0 || pthread_create(&thread, NULL, in_thread, NULL) != 0)
        _exit(1);
    load(DUTY_A, FILTER_ALL_THREADS);
    (void)!write(thread_pipe[1], "x", 1);
    pthread_join(thread, NULL);
}

static void test_all_threads(void **state)
{
    (void)state;
    assert_killed(in_child(0, other_threads), "chroot");
}

static void sent(void)
{
    kill(getpid(), SIGSYS);
}

static void test_the_signal_itself_is_still_one(void **state)
{
    (void)state;
    assert_killed(in_child(0, sent), "");
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(syscall_name(SYS_read), "read");
    assert_string_equal(syscall_name(SYS_openat), "openat");
    assert_string_equal(syscall_name(-1), "?");
    assert_string_equal(syscall_name(1 << 20), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_that_is_not_listed_is_named_and_kills),
        cmocka_unit_test(test_duties_have_calls_of_their_own),
        cmocka_unit_test(test_arguments_count),
        cmocka_unit_test(test_an_answer_instead_of_the_call),
        cmocka_unit_test(test_a_second_filter_takes_more_away),
        cmocka_unit_test(test_all_threads),
        cmocka_unit_test(test_the_signal_itself_is_still_one),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
