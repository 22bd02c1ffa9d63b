/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * date.h - the date of a time, in UTC
 *
 * gmtime_r(3) takes a lock, which the handler of a signal may not, and looks at /etc/localtime, which a
 * confined thread may not.
 */
#pragma once

#include <stdint.h>

struct date {
    int year, month, day; /* from 1 */
    int weekday;          /* 0: Sunday */
    int hour, minute, second;
};

/* @seconds since 1970, not before. Any thread, signal handlers too. */
struct date date_of(int64_t seconds);
