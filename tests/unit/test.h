/* SPDX-License-Identifier: GPL-2.0-or-later */
/* test.h - cmocka with what it wants included before it */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
