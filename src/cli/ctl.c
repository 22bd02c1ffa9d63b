/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl.c
 *
 * A watch on a terminal draws over what it drew before, cut to the terminal's size; a change of that size
 * draws again at once. Elsewhere it prints everything once per interval. It goes on while the program can be
 * reached and ends, with a line, when it cannot any more.
 */
#include "cli/ctl.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/ctl_show.h"
#include "cli/publish.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

enum {
    INTERVAL_MS = 1000,
    ANSWER_S = 10,        /* patience with the other side */
    REPLY_MAX = 64 << 20, /* bytes */
    REPLY_STEP = 1 << 16, /* the first of them */
    PAGE = 1000,          /* flows per request */
    PAGES_MAX = 1000,
    WATCH_PAGES_MAX = 5, /* a screen shows fewer */
    ROWS_DEFAULT = 24,
    COLUMNS_DEFAULT = 80,
};

/* ---- one request ---- */

static int connect_to(const char *path, struct failure *why)
{
    static const struct timeval patience = {.tv_sec = ANSWER_S};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = -1;

    if (strlen(path) >= sizeof(addr.sun_path))
        return failure(why, -ENAMETOOLONG, "use a path of less than 108 bytes", "%s", path);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failure(why, -errno, NULL, "cannot make a socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        return failure(why, -errno, NULL, "cannot set a time limit");
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return failure(why, -errno, "give the --api-socket of a running slirp4netns", "cannot connect to %s",
                       path);
    return steal_fd(&fd);
}

static int send_all(int fd, const char *text, struct failure *why)
{
    size_t size = strlen(text);

    for (size_t n = 0; n < size;) {
        ssize_t r = send(fd, text + n, size - n, MSG_NOSIGNAL);

        if (r < 0 && errno != EINTR)
            return failure(why, -errno, NULL, "cannot send the request");
        n += r > 0 ? (size_t)r : 0;
    }
    if (shutdown(fd, SHUT_WR) < 0)
        return failure(why, -errno, NULL, "cannot send the request");
    return 0;
}

/* To the end of file; *@ret is to be freed. */
static int receive_all(int fd, char **ret, size_t *ret_size, struct failure *why)
{
    _cleanup_free_ char *text = NULL;
    size_t n = 0, max = 0;

    for (;;) {
        ssize_t r;

        if (n == max) {
            char *more;

            max = max ? 2 * max : REPLY_STEP;
            more = max <= REPLY_MAX ? realloc(text, max) : NULL;
            if (!more)
                return failure(why, max <= REPLY_MAX ? -ENOMEM : -EMSGSIZE, NULL, "cannot take the reply");
            text = more;
        }
        r = recv(fd, text + n, max - n, 0);
        if (r == 0)
            break;
        if (r < 0 && errno != EINTR)
            return failure(why, errno == EAGAIN ? -ETIMEDOUT : -errno, NULL, "there is no reply");
        n += r > 0 ? (size_t)r : 0;
    }
    *ret = steal(&text);
    *ret_size = n;
    return 0;
}

json_t *ctl_ask(const char *socket_path, const char *execute, json_t *arguments, struct failure *why)
{
    json_t *request = json_pack("{s:s,s:o*}", "execute", execute, "arguments", arguments), *reply, *value;
    _cleanup_free_ char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    _cleanup_free_ char *answer = NULL;
    _cleanup_close_ int fd = -1;
    const char *desc;
    size_t size = 0;

    json_decref(request);
    if (!text) {
        failure(why, -ENOMEM, NULL, "cannot make the request");
        return NULL;
    }
    fd = connect_to(socket_path, why);
    if (fd < 0 || send_all(fd, text, why) < 0 || receive_all(fd, &answer, &size, why) < 0)
        return NULL;
    reply = json_loadb(answer, size, 0, NULL);
    value = json_incref(json_object_get(reply, "return"));
    desc = json_string_value(json_object_get(json_object_get(reply, "error"), "desc"));
    if (desc)
        failure(why, 1, NULL, "%s", desc);
    else if (!value)
        failure(why, -EPROTO, "is this a slirp4netns?", "%s has not answered in JSON", socket_path);
    json_decref(reply);
    if (!desc)
        return value;
    json_decref(value);
    return NULL;
}

/* ---- commands ---- */

static json_t *fetch_flows(const struct ctl *c, unsigned pages_max, struct failure *why)
{
    json_t *all = json_array(), *next = NULL;

    for (unsigned i = 0; i < pages_max; i++) {
        json_t *arguments = json_pack("{s:i,s:O*}", "limit", PAGE, "cursor", next), *page;

        json_decref(next);
        page = ctl_ask(c->socket_path, "flows", arguments, why);
        if (!page) {
            json_decref(all);
            return NULL;
        }
        (void)json_array_extend(all, json_object_get(page, "flows"));
        next = json_incref(json_object_get(page, "next"));
        json_decref(page);
        if (!next)
            break;
    }
    json_decref(next);
    return json_pack("{s:o}", "flows", all);
}

/* What the commands that only look have to show now. */
static json_t *fetch(const struct ctl *c, struct failure *why)
{
    if (strcmp(c->words[0], "flows") == 0)
        return fetch_flows(c, c->watch ? WATCH_PAGES_MAX : PAGES_MAX, why);
    if (strcmp(c->words[0], "stats") == 0)
        return ctl_ask(c->socket_path, "stats", NULL, why);
    if (strcmp(c->words[0], "info") == 0)
        return ctl_ask(c->socket_path, "slirp_info", NULL, why);
    return ctl_ask(c->socket_path, "list_hostfwd", NULL, why);
}

static void show(const struct ctl *c, FILE *f, const json_t *reply, const json_t *before, double seconds)
{
    if (c->json) {
        (void)json_dumpf(reply, f, JSON_COMPACT);
        fputc('\n', f);
    } else if (strcmp(c->words[0], "flows") == 0) {
        ctl_show_flows(f, reply, before, seconds);
    } else if (strcmp(c->words[0], "stats") == 0) {
        ctl_show_stats(f, reply);
    } else if (strcmp(c->words[0], "info") == 0) {
        ctl_show_info(f, reply);
    } else {
        ctl_show_list(f, reply);
    }
}

static int complain(const struct failure *why)
{
    char text[FAILURE_TEXT_SIZE];

    fprintf(stderr, "%s\n", failure_text(why, text, sizeof(text)));
    return EXIT_FAILURE;
}

static json_t *add_arguments(const char *text, struct failure *why)
{
    struct forward_spec spec;
    char host[INET6_ADDRSTRLEN], guest[INET6_ADDRSTRLEN] = "";
    json_t *arguments;

    if (publish_parse(&spec, text, (struct in_addr){.s_addr = 0}, why) < 0)
        return NULL;
    inet_ntop(spec.host.sa.sa_family,
              spec.host.sa.sa_family == AF_INET6 ? (const void *)&spec.host.in6.sin6_addr
                                                 : &spec.host.in.sin_addr,
              host, sizeof(host));
    if (spec.guest.sa.sa_family == AF_INET6)
        inet_ntop(AF_INET6, &spec.guest.in6.sin6_addr, guest, sizeof(guest));
    else if (spec.guest.in.sin_addr.s_addr != 0) /* else the program's default */
        inet_ntop(AF_INET, &spec.guest.in.sin_addr, guest, sizeof(guest));
    arguments = json_pack("{s:s,s:s,s:i,s:s,s:i}", "proto", spec.proto == IPPROTO_TCP ? "tcp" : "udp",
                          "host_addr", host, "host_port", address_port(&spec.host), "guest_addr", guest,
                          "guest_port", address_port(&spec.guest));
    if (spec.n_ports > 1)
        (void)json_object_set_new(arguments, "host_port_end",
                                  json_integer(address_port(&spec.host) + spec.n_ports - 1));
    if (!arguments)
        failure(why, -ENOMEM, NULL, "cannot make the request");
    return arguments;
}

static json_t *remove_arguments(const char *text, struct failure *why)
{
    char *end;
    long long id;

    errno = 0;
    id = strtoll(text, &end, 10);
    if (end == text || *end || errno || id < 1) {
        failure(why, 1, "\"list\" shows the ids", "remove: \"%s\" is no id", text);
        return NULL;
    }
    return json_pack("{s:I}", "id", (json_int_t)id);
}

/* Each argument is a request of its own; the first that fails ends it. */
static int run_changes(const struct ctl *c, bool add)
{
    struct failure why = FAILURE_NULL;

    for (char **word = c->words + 1; *word; word++) {
        json_t *arguments = add ? add_arguments(*word, &why) : remove_arguments(*word, &why), *reply;

        reply = arguments ? ctl_ask(c->socket_path, add ? "add_hostfwd" : "remove_hostfwd", arguments, &why)
                          : NULL;
        if (!reply)
            return complain(&why);
        if (c->json)
            show(c, stdout, reply, NULL, 0);
        else if (add)
            printf("%lld\n", (long long)json_integer_value(json_object_get(reply, "id")));
        json_decref(reply);
    }
    return EXIT_SUCCESS;
}

/* ---- watching ---- */

struct screen {
    bool is_terminal;
    int rows, columns;
};

static void measure(struct screen *s)
{
    struct winsize size;

    s->is_terminal = isatty(STDOUT_FILENO);
    s->rows = ROWS_DEFAULT;
    s->columns = COLUMNS_DEFAULT;
    if (s->is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 &&
        size.ws_col > 0) {
        s->rows = size.ws_row;
        s->columns = size.ws_col;
    }
}

/* Draws @text over what is there, as much of it as fits. */
static void draw(const struct screen *s, const char *text)
{
    int row = 0, hidden = 0;

    fputs("\033[H", stdout);
    for (const char *line = text; *line;) {
        int size = (int)strcspn(line, "\n");
        bool last = row == s->rows - 1;

        if (last && strchr(line, '\n') && strchr(line, '\n')[1]) {
            for (; *line; line += strcspn(line, "\n"), line += *line == '\n')
                hidden++;
            printf("%s... %d more\033[K", row > 0 ? "\n" : "", hidden);
            break;
        }
        printf("%s%.*s\033[K", row > 0 ? "\n" : "", (int)min_u32((uint32_t)size, (uint32_t)s->columns), line);
        row++;
        line += size;
        line += *line == '\n';
    }
    fputs("\033[J", stdout);
    fflush(stdout);
}

/* Until the next look is due. Returns 0; SIGWINCH: draw again; another signal: the end. */
static int pause_until(int signal_fd, int64_t due_ns)
{
    struct pollfd pfd = {.fd = signal_fd, .events = POLLIN};
    struct signalfd_siginfo info;
    int64_t left_ns = due_ns - clock_monotonic_ns();

    if (left_ns > 0 && poll(&pfd, 1, (int)(left_ns / NS_PER_MS) + 1) < 0 && errno != EINTR)
        return SIGTERM;
    return pfd.revents && read(signal_fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

static void put_frame(const struct ctl *c, const json_t *reply, const json_t *before, double seconds,
                      bool first)
{
    _cleanup_free_ char *text = NULL;
    struct screen screen;
    size_t size;
    FILE *f;

    measure(&screen);
    if (!screen.is_terminal || c->json) {
        if (!first && !c->json)
            putchar('\n');
        show(c, stdout, reply, before, seconds);
        fflush(stdout);
        return;
    }
    f = open_memstream(&text, &size);
    if (!f)
        return; /* the next one may have memory */
    show(c, f, reply, before, seconds);
    if (fclose(f) == 0)
        draw(&screen, text);
}

/* Returns the signal that ended it; 0: a request has failed, @why says why. */
static int watch_loop(const struct ctl *c, int signal_fd, struct failure *why)
{
    json_t *before = NULL, *now = NULL;
    int64_t then_ns = 0, now_ns = 0;
    int number = 0;

    while (number == 0) {
        int64_t due_ns = clock_monotonic_ns() + INTERVAL_MS * NS_PER_MS;

        json_decref(before);
        before = now;
        then_ns = now_ns;
        now = fetch(c, why);
        now_ns = clock_monotonic_ns();
        if (!now)
            break;
        do {
            put_frame(c, now, before, (double)(now_ns - then_ns) / 1e9, !before);
            if (ferror(stdout)) /* nobody reads any more */
                number = SIGPIPE;
            else
                number = pause_until(signal_fd, due_ns);
        } while (number == SIGWINCH && isatty(STDOUT_FILENO));
        if (number == SIGWINCH)
            number = 0;
    }
    json_decref(before);
    json_decref(now);
    return number;
}

static int run_watch(const struct ctl *c)
{
    bool is_screen = isatty(STDOUT_FILENO) && !c->json;
    _cleanup_close_ int signal_fd = -1;
    struct failure why = FAILURE_NULL;
    sigset_t set;
    int number;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGWINCH);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 ||
        (signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0) {
        fprintf(stderr, "signalfd: %m\n");
        return EXIT_FAILURE;
    }
    if (is_screen)
        fputs("\033[?25l\033[2J", stdout); /* no cursor, an empty screen */
    number = watch_loop(c, signal_fd, &why);
    if (is_screen) {
        fputs("\033[?25h\n", stdout);
        fflush(stdout);
    }
    return number == 0 ? complain(&why) : EXIT_SUCCESS;
}

/* ---- the command line ---- */

static const struct {
    const char *name;
    int n_min, n_max; /* arguments */
    bool looks;
} commands[] = {
    {"list", 0, 0, true},  {"add", 1, INT_MAX, false}, {"remove", 1, INT_MAX, false},
    {"stats", 0, 0, true}, {"flows", 0, 0, true},      {"info", 0, 0, true},
};

static int find(const char *word)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(commands[i].name, word) == 0)
            return (int)i;
    }
    return -1;
}

bool ctl_is_command(const char *word)
{
    return find(word) >= 0;
}

const char *ctl_command(unsigned i)
{
    return i < ARRAY_SIZE(commands) ? commands[i].name : NULL;
}

int ctl_run(const struct ctl *c)
{
    struct failure why = FAILURE_NULL;
    int command = find(c->words[0]), n = 0;
    json_t *reply;

    while (c->words[n + 1])
        n++;
    if (n < commands[command].n_min || n > commands[command].n_max) {
        if (n == 0)
            fprintf(stderr, "--ctl: \"%s\" needs %s\n", c->words[0],
                    strcmp(c->words[0], "add") == 0
                        ? "a forward: [HOST_ADDR:]HOST_PORT[-END]:[GUEST_ADDR:]GUEST_PORT"
                          "[/tcp|udp]"
                        : "the id of a forward");
        else
            fprintf(stderr, "--ctl: \"%s\" takes no argument, not \"%s\"\n", c->words[0], c->words[1]);
        return EXIT_FAILURE;
    }
    if (c->watch && !commands[command].looks) {
        fprintf(stderr, "--watch: there is nothing to watch with \"%s\"\n", c->words[0]);
        return EXIT_FAILURE;
    }
    if (!commands[command].looks)
        return run_changes(c, strcmp(c->words[0], "add") == 0);
    if (c->watch)
        return run_watch(c);
    reply = fetch(c, &why);
    if (!reply)
        return complain(&why);
    show(c, stdout, reply, NULL, 0);
    json_decref(reply);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "cannot write: %m\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
