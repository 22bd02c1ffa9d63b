/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine_private.h - what the parts of engine.h share; nobody else includes it
 *
 * engine.c           life cycle, and what other threads ask for
 * engine_loop.c      the slirp thread's loop
 * engine_input.c     frames from the guest, and what other threads hand over
 * engine_callbacks.c what libslirp calls
 * engine_flows.c     who carries the guest's own datagrams
 */
#pragma once

#include "base/spin.h"
#include "io/one_way.h"
#include "io/reassembly.h"
#include "io/tap_rx.h"
#include "io/tap_tx.h"
#include "io/udp_flows.h"
#include "slirp/acks.h"
#include "slirp/descriptors.h"
#include "slirp/engine.h"
#include "slirp/filter.h"
#include "slirp/large.h"
#include "slirp/ping.h"
#include "slirp/udp_forward.h"
#include "slirp/world.h"

#include <glib.h>
#include <pthread.h>
#include <semaphore.h>
#include <slirp/libslirp.h>

enum {
    RX_FRAMES = 256,
    TX_FRAMES = 512,
    ADOPT_QUEUE_MAX = 1024,
    INJECT_QUEUE_MAX = 256,
    TIMERS_MAX = 4, /* libslirp 4.7 has one: router advertisements */
};

struct timer {
    bool used, armed;
    SlirpTimerId id;
    void *cb_opaque;
    int64_t expire_ms;
};

struct adoption {
    int conn_fd;
    union address shown, guest;
};

struct injection {
    uint32_t size;
    uint8_t frame[ENGINE_INJECT_SIZE_MAX];
};

struct engine {
    struct engine_config config; /* fixed before threads start: anyone may read */
    const struct tap_io *io;
    bool shared;
    char backend_why[320], choice[384], udp_text[FAILURE_TEXT_SIZE + 16];
    int gone_fd;
    _Atomic int gone; /* first negative errno, written once by whoever sees it */

    struct frame_pool rx_pool, tx_pool;
    struct spsc rx_ring, tx_ring;
    struct tap_reader *reader;
    int tap_poll_fd; /* shared mode: the reader's, for the epoll set */
    struct tap_writer *writer;
    struct tap_rx rx;
    struct tap_tx tx OWNED_BY(role_slirp);
    struct large large OWNED_BY(role_slirp);
    struct acks acks OWNED_BY(role_slirp);

    struct world world;
    struct wakeup wake; /* the slirp thread's */
    pthread_t thread;
    sem_t gate;           /* posted once, by engine_go() or engine_stop() */
    bool started, opened; /* main's; @opened: the gate */
    _Atomic bool stop;

    pthread_mutex_t adopt_lock;                      /* innermost: nothing is taken inside it */
    struct adoption adopt_queue[ADOPT_QUEUE_MAX];    /* under adopt_lock */
    uint32_t n_adopt;                                /* under adopt_lock */
    struct injection inject_queue[INJECT_QUEUE_MAX]; /* under adopt_lock: a ring */
    uint32_t first_inject, n_inject;                 /* under adopt_lock */
    _Atomic bool adopt_pending;

    Slirp *slirp OWNED_BY(role_slirp);
    struct sockaddr_in outbound; /* libslirp keeps a pointer to it */
    struct sockaddr_in6 outbound6;
    struct filter filter OWNED_BY(role_slirp);
    struct ping ping OWNED_BY(role_slirp);
    struct descriptors descriptors OWNED_BY(role_slirp);
    struct udp_forwards *udp OWNED_BY(role_slirp);
    struct udp_flows *flows;          /* NULL: the guest's datagrams go through libslirp */
    struct udp_flows *loop_flows;     /* the same if the slirp thread carries them, else NULL */
    int flow_epoll_fd;                /* split mode: tap-tx's */
    struct reassembly *rx_reassembly; /* split mode: tap-rx's */
    struct world rx_world;            /* split mode: tap-rx stands still */
    struct reassembly *reassembly OWNED_BY(role_slirp);
    struct timer timers[TIMERS_MAX] OWNED_BY(role_slirp);
    const uint8_t *input_frame OWNED_BY(role_slirp); /* the SYN being given to libslirp, else NULL */
    uint32_t input_size OWNED_BY(role_slirp);
    bool dirty OWNED_BY(role_slirp); /* libslirp's wishes may have changed since the last fill */
    bool tap_ready OWNED_BY(role_slirp);
    bool again OWNED_BY(role_slirp);       /* the next turn does not sleep */
    struct engine_guest guest;             /* fixed before threads start; turn is NULL: there is none */
    bool guest_ready OWNED_BY(role_slirp); /* its turn follows its events */
    struct spin spin OWNED_BY(role_slirp);
    struct one_way loop_one_way OWNED_BY(role_slirp); /* with loop_flows */
    struct one_way rx_one_way OWNED_BY(role_udp_out); /* split mode */
    struct one_way tx_one_way OWNED_BY(role_udp_in);  /* split mode */
    int64_t guest_ns OWNED_BY(role_slirp); /* when its turn comes without an event; INT64_MAX: never */
    uint8_t *apart OWNED_BY(role_slirp);   /* FRAME_SIZE_MAX: one of several datagrams of a frame */
    uint32_t frame_size_usual OWNED_BY(role_slirp); /* shared mode: of late, in bytes */
    uint32_t slirp_timeout_ms OWNED_BY(role_slirp);
    int64_t udp_expire_ns OWNED_BY(role_slirp);
};

/* engine.c. The slirp thread: the data plane has ended, @arg is the engine; the first one counts. */
void engine_set_gone(void *arg, int error);
/* Any other thread: the same, and the slirp thread looks. */
void engine_set_gone_and_kick(void *arg, int error);
/* engine_input.c. Any thread: after an attempt to write to the TAP, with its result. */
void engine_written(struct engine *e, int r);

/* engine_callbacks.c. For slirp_new(), with the engine as their opaque; they assert the slirp role. */
extern const SlirpCb engine_callbacks;
/* For g_log_set_default_handler(). */
void engine_on_glib_message(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer arg);

/* engine_flows.c. main, before threads start. */
int engine_make_flows(struct engine *e, struct failure *why);
/* tap-rx: as engine_set_gone_and_kick(), and nobody waits for it any more. */
void engine_rx_gone(void *arg, int error);

/* engine_input.c. Any thread: the checksums of the header of IPv4 (RFC 1122 3.2.1.2), and of SYNs (RFC
 * 9293 3.1), which may be answered by others than libslirp. @kind: IPv4 or IPv6. */
bool engine_checksums_good(const struct packet *p, enum packet_kind kind);
/* engine_input.c. A batch of frames, from the ring or, in shared mode, from the TAP. Returns true when there
 * may be more at once. */
bool engine_input_batch(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out);
/* Connections of engine_adopt(), frames of engine_inject(). */
void engine_take_handed_over(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out);

/* engine_loop.c. A thread's body, see thread.h; @arg is the engine. Takes its roles, and leaves them when
 * engine_stop() asks for it or the data plane has ended. */
void engine_run_split(void *arg);
void engine_run_shared(void *arg);
