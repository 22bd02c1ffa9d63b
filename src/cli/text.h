/* SPDX-License-Identifier: GPL-2.0-or-later */
/* text.h - reading numbers out of the small files below /proc. Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The beginning of @path in @buffer, terminated. Its size, or a negative errno. */
ssize_t text_read(const char *path, char *buffer, size_t buffer_size);

/* The next number at *@at, after blanks; *@at moves behind it. False: there is none, *@at stays. */
bool text_number(const char **at, int base, long long *ret);

/* The @index-th number in @path, from 0; -1: there is none. */
long long text_file_number(const char *path, unsigned index);
