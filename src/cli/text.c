/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/text.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>

ssize_t text_read(const char *path, char *buffer, size_t buffer_size)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;

    if (fd < 0)
        return -errno;
    while (n < buffer_size - 1) {
        ssize_t size = read(fd, buffer + n, buffer_size - 1 - n);

        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return -errno;
        if (size == 0)
            break;
        n += (size_t)size;
    }
    buffer[n] = '\0';
    return (ssize_t)n;
}

bool text_number(const char **at, int base, long long *ret)
{
    long long n;
    char *end;

    errno = 0;
    n = strtoll(*at, &end, base);
    if (end == *at || errno != 0)
        return false;
    *at = end;
    *ret = n;
    return true;
}

long long text_file_number(const char *path, unsigned index)
{
    char buffer[256];
    const char *at = buffer;
    long long n = -1;

    if (text_read(path, buffer, sizeof(buffer)) < 0)
        return -1;
    for (unsigned i = 0; i <= index; i++) {
        if (!text_number(&at, 10, &n))
            return -1;
    }
    return n;
}
