/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 8, BUFFER_SIZE = 24 };

static const char gap[] = "  ";

void table_init(struct table *t, const char *const *heads)
{
    *t = (struct table){.n_columns = 0};
    for (; heads[t->n_columns] && t->n_columns < TABLE_COLUMNS_MAX; t->n_columns++)
        t->heads[t->n_columns] = heads[t->n_columns];
}

void table_deinit(struct table *t)
{
    for (unsigned i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct table){.n_columns = 0};
}

static bool is_clean(char c)
{
    return (unsigned char)c >= ' ' && (unsigned char)c < 0x7f;
}

void table_clean(FILE *f, const char *text)
{
    for (; *text; text++)
        fputc(is_clean(*text) || *text == '\n' ? *text : '?', f);
}

void table_cell(struct table *t, const char *format, ...)
{
    char *text = NULL, **cells;
    va_list ap;

    if (t->n_cells == t->n_cells_max) {
        unsigned n = t->n_cells_max ? 2 * t->n_cells_max : 256;

        cells = realloc(t->cells, n * sizeof(*cells));
        if (!cells)
            return;
        t->cells = cells;
        t->n_cells_max = n;
    }
    va_start(ap, format);
    if (vasprintf(&text, format, ap) < 0)
        text = NULL;
    va_end(ap);
    for (char *c = text; c && *c; c++)
        *c = is_clean(*c) ? *c : '?';
    t->cells[t->n_cells++] = text;
}

static const char *cell_at(const struct table *t, unsigned index)
{
    return index < t->n_cells && t->cells[index] ? t->cells[index] : "";
}

static void print_row(FILE *f, const struct table *t, const char *const *texts, const unsigned *widths)
{
    const char *between = "";
    unsigned last = t->n_columns - 1;

    while (last > 0 && (widths[last] == 0 || !*texts[last]))
        last--;
    for (unsigned i = 0; i <= last; i++) {
        if (widths[i] == 0)
            continue;
        if (t->heads[i][0] == '>')
            fprintf(f, "%s%*s", between, (int)widths[i], texts[i]);
        else
            fprintf(f, "%s%-*s", between, i == last ? 0 : (int)widths[i], texts[i]);
        between = gap;
    }
    fputc('\n', f);
}

void table_print(const struct table *t, FILE *f)
{
    unsigned widths[TABLE_COLUMNS_MAX] = {0}, n_rows;
    const char *texts[TABLE_COLUMNS_MAX];

    if (t->n_columns == 0)
        return;
    n_rows = (t->n_cells + t->n_columns - 1) / t->n_columns;
    for (unsigned i = 0; i < t->n_cells; i++) {
        unsigned size = (unsigned)strlen(cell_at(t, i));

        if (size > widths[i % t->n_columns])
            widths[i % t->n_columns] = size;
    }
    for (unsigned i = 0; i < t->n_columns; i++) {
        texts[i] = t->heads[i] + 1;
        if ((widths[i] > 0 || n_rows == 0) && strlen(texts[i]) > widths[i])
            widths[i] = (unsigned)strlen(texts[i]);
    }
    print_row(f, t, texts, widths);
    for (unsigned row = 0; row < n_rows; row++) {
        for (unsigned i = 0; i < t->n_columns; i++)
            texts[i] = cell_at(t, row * t->n_columns + i);
        print_row(f, t, texts, widths);
    }
}

static char *buffer(void)
{
    static char buffers[BUFFERS][BUFFER_SIZE];
    static unsigned next;

    return buffers[next++ % BUFFERS];
}

const char *table_bytes(double bytes)
{
    static const char units[] = " KMGTPE";
    char *text = buffer();
    unsigned unit = 0;

    for (; bytes >= 999.5 && unit < sizeof(units) - 2; unit++)
        bytes /= 1024;
    if (unit == 0)
        snprintf(text, BUFFER_SIZE, "%.0f", bytes);
    else
        snprintf(text, BUFFER_SIZE, bytes < 9.95 ? "%.1f%c" : "%.0f%c", bytes, units[unit]);
    return text;
}

const char *table_seconds(double seconds)
{
    char *text = buffer();
    unsigned long s = seconds < 0 ? 0 : seconds > 1e12 ? 1000000000000 : (unsigned long)seconds;

    if (seconds < 10)
        snprintf(text, BUFFER_SIZE, "%.1fs", seconds < 0 ? 0 : seconds);
    else if (s < 60)
        snprintf(text, BUFFER_SIZE, "%lus", s);
    else if (s < 3600)
        snprintf(text, BUFFER_SIZE, "%lum%02lus", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, BUFFER_SIZE, "%luh%02lum", s / 3600, s / 60 % 60);
    else
        snprintf(text, BUFFER_SIZE, "%lud%02luh", s / 86400, s / 3600 % 24);
    return text;
}
