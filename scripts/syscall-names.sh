#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# syscall-names.sh COMPILER...: an initialiser per system call of the target, from the compiler's own headers
set -eu

echo '#include <sys/syscall.h>' | "$@" -E -dM - |
    sed -n 's/^#define __NR_\([a-z][a-z0-9_]*\) .*/[__NR_\1] = "\1",/p' | sort
