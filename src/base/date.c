/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/date.h"

enum {
    DAY_S = 86400,
    DAYS_BEFORE_1970 = 719468, /* since March 1st of the year 0 */
    ERA_DAYS = 146097,         /* of 400 years, after which the calendar repeats */
};

/* Years begin in March here, so that the leap day is the last of its year. */
struct date date_of(int64_t seconds)
{
    int64_t days = seconds / DAY_S, of_day = seconds % DAY_S;
    int64_t era = (days + DAYS_BEFORE_1970) / ERA_DAYS, day = (days + DAYS_BEFORE_1970) % ERA_DAYS;
    int64_t year = (day - day / 1460 + day / 36524 - day / (ERA_DAYS - 1)) / 365;
    int64_t day_of_year = day - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * day_of_year + 2) / 153; /* 0: March; five months have 153 days */

    return (struct date){
        .year = (int)(era * 400 + year + (month >= 10)),
        .month = (int)(month < 10 ? month + 3 : month - 9),
        .day = (int)(day_of_year - (153 * month + 2) / 5 + 1),
        .weekday = (int)((days + 4) % 7),
        .hour = (int)(of_day / 3600),
        .minute = (int)(of_day / 60 % 60),
        .second = (int)(of_day % 60),
    };
}
