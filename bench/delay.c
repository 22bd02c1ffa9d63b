/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * delay.c - two TUN devices in two network namespaces, and a wire between them that takes its time
 *
 * Usage: delay MS NAME_HERE NAME_THERE PID SECONDS
 *
 * NAME_HERE is made in this network namespace, NAME_THERE in that of process PID. A packet that enters one of
 * them leaves the other MS milliseconds later. Says {"ready": true} when both exist, and ends after SECONDS
 * or on a signal; the devices go with it. For kernels without netem.
 *
 * Packets travel as the kernel hands them over, with the virtio header: up to 64 KiB at a time and without
 * checksums, as between the ends of a veth pair. So the wire costs little of what is measured with it. Each
 * direction holds at most WIRE_BYTES; what does not fit is lost, as in a router's queue.
 */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)

enum {
    WIRE_BYTES = 256 << 20, /* 100 ms at 20 Gbit/s; memory is used only as far as it is filled */
    PACKET_MAX = 70 * 1024, /* with the virtio header */
    BATCH = 64,             /* packets of one direction before the other one has its turn */
    MS_MAX = 10000,
    SECONDS_MAX = 3600,
};

struct record {
    int64_t due;
    uint32_t size; /* of the packet that follows; 0: go on at the start of the ring */
};

/* One direction. head == tail: nothing is under way. A packet lies in one piece. */
struct wire {
    int from_fd, to_fd;
    uint8_t *ring;
    size_t head, tail; /* taken from head, added at tail; both are multiples of the alignment of a record */
    uint64_t passed, lost;
};

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static int tun_open(const char *name)
{
    struct ifreq ifr = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        die("cannot open /dev/net/tun");
    }
    if (snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name) >= (int)sizeof(ifr.ifr_name)) {
        errno = 0;
        die("'%s' is too long for the name of an interface", name);
    }
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        die("cannot make %s", name);
    }
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) {
        die("no offloads for %s", name);
    }
    return fd;
}

static int tun_open_there(const char *name, long pid)
{
    char path[64];
    int fd, here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there;

    snprintf(path, sizeof(path), "/proc/%ld/ns/net", pid);
    there = open(path, O_RDONLY | O_CLOEXEC);
    if (here < 0 || there < 0 || setns(there, CLONE_NEWNET) < 0) {
        die("cannot join the network namespace of process %ld", pid);
    }
    fd = tun_open(name);
    if (setns(here, CLONE_NEWNET) < 0) {
        die("cannot come back from the other network namespace");
    }
    close(here);
    close(there);
    return fd;
}

static void wire_init(struct wire *wire, int from_fd, int to_fd)
{
    *wire = (struct wire){.from_fd = from_fd, .to_fd = to_fd};
    wire->ring =
        mmap(NULL, WIRE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (wire->ring == MAP_FAILED) {
        die("no memory for a wire");
    }
}

static size_t rounded(size_t size)
{
    return (sizeof(struct record) + size + _Alignof(struct record) - 1) / _Alignof(struct record) *
           _Alignof(struct record);
}

/* Where a packet of up to PACKET_MAX bytes can be read to, or NULL when the wire is full. */
static struct record *wire_room(struct wire *wire)
{
    size_t need = rounded(PACKET_MAX) + sizeof(struct record);

    if (wire->tail >= wire->head) {
        if (WIRE_BYTES - wire->tail >= need) {
            return (struct record *)(void *)(wire->ring + wire->tail);
        }
        if (wire->head <= need) {
            return NULL;
        }
        ((struct record *)(void *)(wire->ring + wire->tail))->size = 0;
        wire->tail = 0;
    }
    return wire->head - wire->tail > need ? (struct record *)(void *)(wire->ring + wire->tail) : NULL;
}

/* The packet at the other end, or NULL when there is none. */
static struct record *wire_first(struct wire *wire)
{
    struct record *record;

    if (wire->head == wire->tail) {
        wire->head = wire->tail = 0;
        return NULL;
    }
    record = (struct record *)(void *)(wire->ring + wire->head);
    if (record->size == 0) {
        wire->head = 0;
        record = (struct record *)(void *)wire->ring;
    }
    return wire->head == wire->tail ? NULL : record;
}

/* Takes in what has come; true when there may be more. */
static bool wire_read(struct wire *wire, int64_t delay)
{
    static uint8_t lost[PACKET_MAX];

    for (int i = 0; i < BATCH; i++) {
        struct record *record = wire_room(wire);
        ssize_t n = read(wire->from_fd, record != NULL ? (void *)(record + 1) : lost, PACKET_MAX);

        if (n < 0) {
            if (errno != EAGAIN && errno != EIO) { /* EIO: the device is down */
                die("cannot read a packet");
            }
            return false;
        }
        if (record == NULL) {
            wire->lost++;
            continue;
        }
        *record = (struct record){.due = now_ns() + delay, .size = (uint32_t)n};
        wire->tail += rounded((size_t)n);
    }
    return true;
}

/* Gives out what is due; returns when the next packet is, or INT64_MAX. */
static int64_t wire_write(struct wire *wire)
{
    struct record *record;

    while ((record = wire_first(wire)) != NULL) {
        if (record->due > now_ns()) {
            return record->due;
        }
        if (write(wire->to_fd, record + 1, record->size) < 0) {
            wire->lost++; /* the device is down, or its queue is full */
        } else {
            wire->passed++;
        }
        wire->head += rounded(record->size);
    }
    return INT64_MAX;
}

int main(int argc, char **argv)
{
    struct wire wires[2];
    int64_t delay, end;
    int here_fd, there_fd;

    if (argc != 6) {
        fputs("Usage: delay MS NAME_HERE NAME_THERE PID SECONDS\n", stderr);
        return 2;
    }
    delay = (int64_t)(parse_number(argv[1], "MS", 0, MS_MAX) * NS_PER_MS);
    end = now_ns() + (int64_t)(parse_number(argv[5], "SECONDS", 0.01, SECONDS_MAX) * NS_PER_S);
    end_on_signals();
    here_fd = tun_open(argv[2]);
    there_fd = tun_open_there(argv[3], (long)parse_number(argv[4], "PID", 1, 1 << 22));
    wire_init(&wires[0], here_fd, there_fd);
    wire_init(&wires[1], there_fd, here_fd);
    printf("{\"ready\": true}\n");
    fflush(stdout);

    while (!over && now_ns() < end) {
        struct pollfd polls[] = {{.fd = here_fd, .events = POLLIN}, {.fd = there_fd, .events = POLLIN}};
        int64_t next = end, left;
        bool more = false;

        for (int i = 0; i < 2; i++) {
            more |= wire_read(&wires[i], delay);
            int64_t due = wire_write(&wires[i]);
            next = due < next ? due : next;
        }
        left = more ? 0 : next - now_ns();
        left = left > 0 ? left : 0;
        struct timespec timeout = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};
        if (ppoll(polls, 2, &timeout, NULL) < 0 && errno != EINTR) {
            die("ppoll");
        }
    }
    printf("{\"passed\": %" PRIu64 ", \"lost\": %" PRIu64 "}\n", wires[0].passed + wires[1].passed,
           wires[0].lost + wires[1].lost);
    return 0;
}
