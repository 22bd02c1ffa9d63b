/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz.h - what every fuzzer needs: libFuzzer's interface, seeds, a check, an input that is used up
 *
 * Every target brings its seeds in its source: its LLVMFuzzerCustomMutator() turns the empty input, which
 * libFuzzer begins with when there is no corpus, and now and then another one, into a seed.
 */
#pragma once

#include "base/bits.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's interface; there is no header for it that comes with every clang. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

/* What must hold; otherwise the input is kept as a failure. */
#define CHECK(x)                                                            \
    do {                                                                    \
        if (!(x)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
            __builtin_trap();                                               \
        }                                                                   \
    } while (0)

/* ---- seeds ---- */

struct seed {
    const void *data;
    size_t size;
};

#define SEED(bytes)              \
    {                            \
        bytes, sizeof(bytes) - 1 \
    }

/* True: @data has become one of @seeds, *@size its size. */
static inline bool seeds_plant(const struct seed *seeds, size_t n_seeds, uint8_t *data, size_t *size,
                               size_t size_max, unsigned seed)
{
    const struct seed *s = &seeds[seed / 64 % n_seeds];

    if ((*size > 1 && seed % 64 != 0) || s->size > size_max)
        return false;
    memcpy(data, s->data, s->size);
    *size = s->size;
    return true;
}

/* The mutator of a target: seeds, then libFuzzer's own mutations, then @mend(data, size, seed). */
#define FUZZ_MUTATOR(seeds, mend)                                                              \
    size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed) \
    {                                                                                          \
        if (seeds_plant(seeds, ARRAY_SIZE(seeds), data, &size, size_max, seed))                \
            return size;                                                                       \
        size = LLVMFuzzerMutate(data, size, size_max);                                         \
        mend(data, size, seed);                                                                \
        return size;                                                                           \
    }

static inline void mend_nothing(uint8_t *data, size_t size, unsigned seed)
{
    (void)data;
    (void)size;
    (void)seed;
}

/* ---- the rest of an input ---- */

struct input {
    const uint8_t *data;
    size_t size; /* what is left */
};

/* 0 when nothing is left. */
static inline uint8_t input_u8(struct input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static inline uint16_t input_u16(struct input *in)
{
    uint16_t high = input_u8(in);

    return (uint16_t)(high << 8 | input_u8(in));
}

/* Fills @ret with what is left, at most @max bytes, and zeroes. Returns how many bytes there were. */
static inline size_t input_bytes(struct input *in, void *ret, size_t max)
{
    size_t n = in->size < max ? in->size : max;

    memset(ret, 0, max);
    memcpy(ret, in->data, n);
    in->data += n;
    in->size -= n;
    return n;
}
