/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * table.h - columns of text for people
 *
 * main only. Cells are copied and cleaned: whatever was in them, a table sends nothing but printable
 * characters to a terminal. Memory that runs out leaves cells empty.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 12 };

struct table {
    const char *heads[TABLE_COLUMNS_MAX]; /* "<ID": the first character says left or right ('<', '>') */
    unsigned n_columns;
    char **cells; /* row by row */
    unsigned n_cells, n_cells_max;
};

/* @heads ends with NULL. */
void table_init(struct table *t, const char *const *heads);
void table_deinit(struct table *t);
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The heads and all rows, each column as wide as it has to be. Columns in which nothing stands are left out.
 */
void table_print(const struct table *t, FILE *f);

/* Texts of at most 24 bytes in one of a few static buffers. */
const char *table_bytes(double bytes); /* "999", "1.2K", "37M": powers of 1024 */
const char *table_seconds(double seconds);

/* Writes @text without what a terminal would obey, newlines excepted. */
void table_clean(FILE *f, const char *text);
