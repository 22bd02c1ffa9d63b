/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_agent_parent.c - the parent of an nsagent that is not what it should be
 *
 * agent_process() is this file's: a child that says what a test wants it to say. test_agent.c has the real
 * one.
 */
#include "fwd/agent_serve.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/fd_passing.h"
#include "fwd/agent_child.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 30000, ALARM_S = 110, FDS_MAX = 3, PORTS = 1024 };

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifdef __s390__
#define CLONE(flags, pidfd) syscall(SYS_clone, 0L, (long)(flags), (pidfd), 0L, 0L)
#else
#define CLONE(flags, pidfd) syscall(SYS_clone, (long)(flags), 0L, (pidfd), 0L, 0L)
#endif

/* What agents have heard: the first one, its standby. */
static struct heard {
    _Atomic uint32_t n[2];
    uint8_t ports[2][PORTS];
} * heard;

/* ---- the agent ---- */

static void say(int sock, const struct agent_message *m, const int *fds, unsigned n_fds)
{
    if (fd_passing_send(sock, m, sizeof(*m), fds, n_fds, 0) < 0)
        _exit(2);
}

_Noreturn static void wait_for_the_end(int sock)
{
    struct agent_message m;

    while (recv(sock, &m, sizeof(m), 0) > 0)
        ;
    _exit(0);
}

/* Looks around, as if lo were down for IPv4. */
_Noreturn static void answer_a_look(int sock)
{
    struct agent_message m;

    if (recv(sock, &m, sizeof(m), 0) != sizeof(m) || m.type != MESSAGE_LOOK)
        _exit(3);
    say(sock, &(struct agent_message){.type = MESSAGE_ADDRESSES, .final = 1}, NULL, 0);
    say(sock, &(struct agent_message){.type = MESSAGE_STATE, .family = AF_INET, .result = AGENT_LO_DOWN},
        NULL, 0);
    wait_for_the_end(sock);
}

/* A good one: the parent's child. Returns the parent's end of its conversation. */
static int standby_make(int sock, int *ret_pidfd, pid_t *ret_pid)
{
    int pair[2];

    *ret_pidfd = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        _exit(4);
    *ret_pid = (pid_t)CLONE(CLONE_PARENT | CLONE_PIDFD | SIGCHLD, ret_pidfd);
    if (*ret_pid < 0)
        _exit(5);
    if (*ret_pid == 0) {
        close(sock);
        close(pair[0]);
        answer_a_look(pair[1]);
    }
    close(pair[1]);
    return pair[0];
}

static enum standby {
    STANDBY_GOOD,
    STANDBY_NO_CHILD, /* the pidfd is the parent's own: nobody may be signalled by it */
    STANDBY_NO_PIDFD,
    STANDBY_NO_PROCESS,
    STANDBY_ONE_DESCRIPTOR,
    STANDBY_THREE_DESCRIPTORS,
    STANDBY_TWICE,
    STANDBYS,
    SECOND_REPORT = STANDBYS,
    UNDIVERTS,
    NO_NESTED,
} script;

static void introduce(int sock, enum standby what)
{
    int fds[FDS_MAX], pidfd;
    struct agent_message m = {.type = MESSAGE_STANDBY};
    unsigned n = 2;
    pid_t pid;

    fds[0] = standby_make(sock, &pidfd, &pid);
    fds[1] = pidfd;
    fds[2] = sock;
    m.result = pid;
    if (what == STANDBY_NO_CHILD)
        fds[1] = (int)syscall(SYS_pidfd_open, getppid(), 0);
    else if (what == STANDBY_NO_PIDFD)
        fds[1] = fds[0];
    else if (what == STANDBY_NO_PROCESS)
        m.result = 0;
    else if (what == STANDBY_ONE_DESCRIPTOR)
        n = 1;
    else if (what == STANDBY_THREE_DESCRIPTORS)
        n = 3;
    say(sock, &m, fds, n);
    if (what == STANDBY_TWICE)
        introduce(sock, STANDBY_GOOD);
    close(fds[0]);
}

/* Counts the elements that it is to take away, and confirms those of the first @n_confirmed messages. */
_Noreturn static void undiverts_count(int sock, uint32_t place, uint32_t n_confirmed)
{
    struct agent_message m;

    while (recv(sock, &m, sizeof(m), 0) == sizeof(m)) {
        if (m.type != MESSAGE_UNDIVERT)
            continue;
        for (uint32_t i = 0; i < m.count; i++) {
            uint32_t port = address_port(&m.tuples[i].source);

            if (port >= PORTS)
                _exit(8);
            heard->ports[place][port]++;
        }
        if (n_confirmed > 0) {
            say(sock, &(struct agent_message){.type = MESSAGE_UNDIVERTED, .count = m.count}, NULL, 0);
            n_confirmed--;
        }
        /* Release, pairs with heard_by(): the ports before their number. */
        atomic_fetch_add_explicit(&heard->n[place], m.count, memory_order_release);
    }
    _exit(0);
}

/* With a standby that confirms all. */
_Noreturn static void undiverts_confirm_one(int sock)
{
    struct agent_message m = {.type = MESSAGE_STANDBY};
    int pair[2], pidfd = -1;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        _exit(4);
    m.result = (int32_t)CLONE(CLONE_PARENT | CLONE_PIDFD | SIGCHLD, &pidfd);
    if (m.result < 0)
        _exit(5);
    if (m.result == 0) {
        close(sock);
        close(pair[0]);
        undiverts_count(pair[1], 1, UINT32_MAX);
    }
    close(pair[1]);
    say(sock, &m, (int[]){pair[0], pidfd}, 2);
    close(pair[0]);
    close(pidfd);
    undiverts_count(sock, 0, 1);
}

/* With an nft table, whose socket the parent gets with the good report only. */
_Noreturn static void report_twice(int sock)
{
    struct mnl_socket *netlink = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    struct agent_serve serve = {.sock = sock};
    struct failure why = FAILURE_NULL;

    if (!netlink || mnl_socket_bind(netlink, 0, MNL_SOCKET_AUTOPID) < 0 ||
        nft_join(&serve.nft, mnl_socket_get_fd(netlink), 0x10000, 0xffff0000) < 0 ||
        agent_serve_started(&serve, &why, 0) < 0)
        _exit(6);
    failure(&why, -EPERM, "say it again", "it could not be sealed");
    if (agent_serve_started(&serve, &why, 0) < 0)
        _exit(7);
    _exit(1);
}

/* Cannot divert containers, at first for want of memory, and says so as often as it is asked. */
_Noreturn static void leave_nested(int sock)
{
    struct agent_message m;
    int error = -ENOMEM;

    while (recv(sock, &m, sizeof(m), 0) == sizeof(m)) {
        if (m.type != MESSAGE_NESTED)
            continue;
        say(sock,
            &(struct agent_message){.type = MESSAGE_COMPLAINT, .count = AGENT_LEAVES_NESTED, .result = error},
            NULL, 0);
        error = -EOPNOTSUPP;
    }
    _exit(0);
}

_Noreturn void agent_process(int sock, const struct agent_config *config, pid_t parent_pid)
{
    (void)config;
    (void)parent_pid;
    alarm(ALARM_S);
    if (script == SECOND_REPORT)
        report_twice(sock);
    say(sock, &(struct agent_message){.type = MESSAGE_STARTED, .count = ENODEV}, NULL, 0);
    if (script == UNDIVERTS)
        undiverts_confirm_one(sock);
    if (script == NO_NESTED)
        leave_nested(sock);
    introduce(sock, script);
    wait_for_the_end(sock);
}

/* ---- the parent ---- */

static struct agent *start(enum standby what)
{
    const struct agent_config config = {
        .userns_fd = -1, .netns_fd = 0, .mark = 0x10000, .mark_mask = 0xffff0000, .table = 7};
    struct failure why = FAILURE_NULL;
    struct agent *a = NULL;

    script = what;
    fflush(NULL);
    assert_int_equal(agent_start(&a, &config, &why), 0);
    assert_int_equal(agent_wait(a, &why), 0);
    return a;
}

static int read_on(struct agent *a, int64_t deadline_ns) RUNS_ON(role_fwd)
{
    struct pollfd p = {.fd = agent_fd(a), .events = POLLIN};

    assert_true(clock_monotonic_ns() < deadline_ns);
    (void)poll(&p, 1, 100);
    return agent_read(a);
}

static void tuple_make(struct nft_tuple *ret, uint32_t port)
{
    memset(ret, 0, sizeof(*ret));
    ret->source.in.sin_family = ret->destination.in.sin_family = AF_INET;
    address_set_port(&ret->source, (uint16_t)port);
}

static int64_t deadline(void)
{
    return clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
}

static int descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void test_a_standby_is_taken_at_its_word_by_its_pidfd(void **state)
{
    struct agent *a;
    const char *why = NULL;
    int before = descriptors();
    int64_t end_ns = deadline();
    pid_t first;

    (void)state;
    a = start(STANDBY_GOOD);
    role_enter(&role_fwd);
    while (!agent_has_standby(a))
        assert_int_equal(read_on(a, end_ns), 0);
    first = agent_pid(a);
    assert_int_equal(kill(first, SIGKILL), 0);
    while (read_on(a, end_ns) == 0)
        ;
    assert_int_equal(agent_restart(a, &why), 0);
    assert_int_not_equal(agent_pid(a), first);
    while (agent_family_state(a, AF_INET) == AGENT_NOT_YET)
        assert_int_equal(read_on(a, end_ns), 0);
    assert_int_equal(agent_family_state(a, AF_INET), AGENT_LO_DOWN);
    assert_false(agent_has_standby(a)); /* this one has none */
    role_leave(&role_fwd);
    agent_free(a);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* all of them are reaped */
    assert_int_equal(errno, ECHILD);
    assert_int_equal(descriptors(), before);
}

/* Not reaped: that is the agent's owner's to do. */
static void wait_exited(pid_t pid, int64_t end_ns)
{
    siginfo_t info = {.si_pid = 0};

    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0) {
        assert_true(clock_monotonic_ns() < end_ns);
        usleep(1000);
    }
    assert_int_equal(info.si_pid, pid);
}

static void test_nonsense_for_a_standby_is_refused(void **state)
{
    int before = descriptors();

    (void)state;
    for (enum standby what = STANDBY_NO_CHILD; what < STANDBYS; what++) {
        struct agent *a = start(what);
        const char *why = NULL;
        int64_t end_ns = deadline();

        role_enter(&role_fwd);
        while (read_on(a, end_ns) == 0)
            ;
        assert_int_equal(agent_restart(a, &why), -EPIPE);
        assert_string_equal(why, "it broke a rule");
        /* It is not to go on, with sockets and a table that nobody will ask it for. */
        assert_int_equal(agent_fd(a), -1);
        wait_exited(agent_pid(a), end_ns);
        role_leave(&role_fwd);
        agent_free(a);
        /* What was not introduced as it should be is nobody's: it ends because nobody has its conversation.
         */
        while (waitpid(-1, NULL, WNOHANG) >= 0) {
            assert_true(clock_monotonic_ns() < end_ns);
            usleep(1000);
        }
        assert_int_equal(errno, ECHILD);
        assert_int_equal(descriptors(), before);
    }
}

static void test_a_second_report_says_why(void **state)
{
    int stderr_fd = dup(STDERR_FILENO), said_fd = memfd_create("said", MFD_CLOEXEC);
    struct agent *a;
    int64_t end_ns = deadline();
    char said[512] = "";
    int r;

    (void)state;
    a = start(SECOND_REPORT);
    assert_int_equal(agent_divert_state(a), 0); /* the first one came with the table's socket */
    assert_true(stderr_fd >= 0 && said_fd >= 0);
    assert_int_equal(dup2(said_fd, STDERR_FILENO), STDERR_FILENO);
    role_enter(&role_fwd);
    while ((r = read_on(a, end_ns)) == 0)
        ;
    role_leave(&role_fwd);
    assert_int_equal(dup2(stderr_fd, STDERR_FILENO), STDERR_FILENO);
    close(stderr_fd);
    assert_int_equal(r, -EPIPE);
    assert_true(pread(said_fd, said, sizeof(said) - 1, 0) > 0);
    close(said_fd);
    assert_non_null(strstr(said, "it could not be sealed"));
    assert_non_null(strstr(said, "say it again"));
    agent_free(a);
}

/* Acquire, pairs with undiverts_count(). */
static uint32_t heard_by(uint32_t place)
{
    return atomic_load_explicit(&heard->n[place], memory_order_acquire);
}

/* An agent that was killed has confirmed six elements of all that it was asked to take away: its standby is
 * asked for the others, and for what comes after its predecessor's death. */
static void test_the_next_one_takes_away_what_was_not_confirmed(void **state)
{
    enum { FIRST = 100, LATER = 3 };
    struct agent *a;
    struct nft_tuple tuples[AGENT_UNDIVERT_MAX];
    const char *why = NULL;
    int64_t end_ns = deadline();
    uint32_t next = 0, taken = 0;

    (void)state;
    heard = mmap(NULL, sizeof(*heard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(heard != MAP_FAILED);
    a = start(UNDIVERTS);
    role_enter(&role_fwd);
    while (!agent_has_standby(a))
        assert_int_equal(read_on(a, end_ns), 0);
    while (next < FIRST) {
        tuple_make(&tuples[0], next++);
        assert_int_equal(agent_undivert(a, tuples, 1), 1);
    }
    while (heard_by(0) < FIRST)
        assert_int_equal(read_on(a, end_ns), 0);
    assert_int_equal(kill(agent_pid(a), SIGKILL), 0);
    while (read_on(a, end_ns) == 0)
        ;
    for (uint32_t i = 0; i < LATER; i++)
        tuple_make(&tuples[i], next++);
    assert_int_equal(agent_undivert(a, tuples, LATER), LATER);
    assert_int_equal(agent_restart(a, &why), 0);
    while (heard_by(1) < FIRST - 1 + LATER)
        assert_int_equal(read_on(a, end_ns), 0);
    for (uint32_t port = 0; port < next; port++) {
        assert_int_equal(heard->ports[0][port], port < FIRST ? 1 : 0);
        assert_int_equal(heard->ports[1][port], port == 0 ? 0 : 1); /* the one that was confirmed */
    }
    /* It confirms: there is room for ever more of them. */
    while (next + AGENT_UNDIVERT_MAX <= PORTS) {
        for (uint32_t i = 0; i < AGENT_UNDIVERT_MAX; i++)
            tuple_make(&tuples[i], next + i);
        taken = agent_undivert(a, tuples, AGENT_UNDIVERT_MAX);
        next += taken;
        assert_int_equal(read_on(a, end_ns), 0);
    }
    while (heard_by(1) < next - 1)
        assert_int_equal(read_on(a, end_ns), 0);
    for (uint32_t port = 1; port < next; port++)
        assert_int_equal(heard->ports[1][port], 1);
    /* Gone for good: nobody keeps them. */
    assert_int_equal(kill(agent_pid(a), SIGKILL), 0);
    while (read_on(a, end_ns) == 0)
        ;
    assert_int_equal(agent_restart(a, &why), -EPIPE);
    for (int i = 0; i < 100; i++)
        assert_int_equal(agent_undivert(a, tuples, AGENT_UNDIVERT_MAX), AGENT_UNDIVERT_MAX);
    role_leave(&role_fwd);
    agent_free(a);
    munmap(heard, sizeof(*heard));
}

/* One that does not read: what it cannot be told is to be told again, and it can be given up. */
/* A signal is not there when kill(2) returns. */
static void stop(const struct agent *a)
{
    siginfo_t info;

    assert_int_equal(kill(agent_pid(a), SIGSTOP), 0);
    assert_int_equal(waitid(P_PID, (id_t)agent_pid(a), &info, WSTOPPED | WNOWAIT), 0);
}

static void test_an_agent_that_does_not_listen(void **state)
{
    const struct repair_spec spec = {.local.sa.sa_family = AF_INET, .peer.sa.sa_family = AF_INET};
    const char *why = NULL;
    int64_t end_ns = deadline(), begin_ns;
    struct agent *a;
    int r;

    (void)state;
    a = start(STANDBY_GOOD);
    role_enter(&role_fwd);
    while (!agent_has_standby(a))
        assert_int_equal(read_on(a, end_ns), 0);
    assert_int_equal(agent_silent_ns(a), -1); /* it owes nothing */
    stop(a);
    begin_ns = clock_monotonic_ns();
    while ((r = agent_divert(a, 1, &spec)) == 0)
        assert_true(clock_monotonic_ns() < end_ns);
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(agent_divert_nested(a), -EAGAIN);
    assert_true(agent_silent_ns(a) >= 0);
    while (agent_silent_ns(a) < 10 * NS_PER_MS)
        assert_true(clock_monotonic_ns() < end_ns);
    assert_true(agent_silent_ns(a) <= clock_monotonic_ns() - begin_ns);
    assert_int_equal(kill(agent_pid(a), SIGCONT), 0);
    while ((r = agent_divert_nested(a)) == -EAGAIN) {
        assert_true(clock_monotonic_ns() < end_ns);
        usleep(1000);
    }
    assert_int_equal(r, 0);
    stop(a);
    agent_give_up(a);
    while (read_on(a, end_ns) == 0)
        ;
    assert_int_equal(agent_divert_nested(a), -EAGAIN);
    assert_int_equal(agent_silent_ns(a), -1);
    assert_int_equal(agent_restart(a, &why), 0);
    assert_true(agent_silent_ns(a) >= 0); /* it has to say what it sees */
    while (agent_silent_ns(a) >= 0)
        assert_int_equal(read_on(a, end_ns), 0);
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_containers_that_cannot_be_diverted(void **state)
{
    int64_t end_ns = deadline();
    struct agent *a;
    int r;

    (void)state;
    a = start(NO_NESTED);
    role_enter(&role_fwd);
    assert_int_equal(agent_divert_nested(a), 0);
    while ((r = agent_divert_nested(a)) == 0)
        assert_int_equal(read_on(a, end_ns), 0);
    assert_int_equal(r, -EOPNOTSUPP);
    assert_int_equal(agent_divert_nested(a), -EOPNOTSUPP);
    assert_false(agent_is_gone(a));
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_whose_child_it_is(void **state)
{
    int fds[2], parent_fd = (int)syscall(SYS_pidfd_open, getppid(), 0);
    struct agent_child child = AGENT_CHILD_NULL;

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_true(parent_fd >= 0);
    assert_false(agent_child_is_ours(-1));
    assert_false(agent_child_is_ours(fds[0]));
    assert_false(agent_child_is_ours(parent_fd));
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        char byte;

        close(fds[1]);
        _exit(read(fds[0], &byte, 1) == 0 ? 0 : 1);
    }
    agent_child_hold(&child);
    assert_true(child.pidfd >= 0 && agent_child_is_ours(child.pidfd));
    assert_false(agent_child_reap(&child));
    assert_false(agent_child_wait(&child, clock_monotonic_ns() + 20 * NS_PER_MS));
    close(fds[1]);
    assert_true(agent_child_wait(&child, clock_monotonic_ns() + WAIT_MS * NS_PER_MS));
    assert_false(agent_child_is_ours(child.pidfd)); /* it is reaped */
    agent_child_kill(&child);                       /* and this is nobody */
    agent_child_close(&child);
    close(fds[0]);
    close(parent_fd);
}

/* Without pidfds there are no standbys, and the first agent is held by its process id. */
static int needs_pidfds(void **state)
{
    struct agent_child child = AGENT_CHILD_NULL;
    bool has;

    (void)state;
    alarm(ALARM_S);
    child.pid = fork();
    if (child.pid == 0)
        _exit(0);
    agent_child_hold(&child);
    has = child.pidfd >= 0;
    (void)agent_child_wait(&child, clock_monotonic_ns() + WAIT_MS * NS_PER_MS);
    agent_child_close(&child);
    return has ? 0 : 77;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_standby_is_taken_at_its_word_by_its_pidfd),
        cmocka_unit_test(test_nonsense_for_a_standby_is_refused),
        cmocka_unit_test(test_a_second_report_says_why),
        cmocka_unit_test(test_the_next_one_takes_away_what_was_not_confirmed),
        cmocka_unit_test(test_an_agent_that_does_not_listen),
        cmocka_unit_test(test_containers_that_cannot_be_diverted),
        cmocka_unit_test(test_whose_child_it_is),
    };

    if (needs_pidfds(NULL) != 0) {
        print_message("SKIP: this kernel has no pidfds that can be waited for (Linux 5.4)\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
