/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seeds.h - where a fuzzer begins
 *
 * Every target brings its seeds in its source: its LLVMFuzzerCustomMutator() turns the empty input, which
 * libFuzzer begins with when there is no corpus, and now and then another one, into a seed.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* libFuzzer's interface; there is no header for it that comes with every clang. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

struct seed {
    const void *data;
    size_t size;
};

/* True: @data has become one of @seeds, *@size its size. */
static inline int seeds_plant(const struct seed *seeds, size_t n_seeds, uint8_t *data, size_t *size,
                              size_t size_max, unsigned seed)
{
    const struct seed *s = &seeds[seed / 64 % n_seeds];

    if ((*size > 1 && seed % 64 != 0) || s->size > size_max)
        return 0;
    memcpy(data, s->data, s->size);
    *size = s->size;
    return 1;
}
