/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/userns.h"

#include "test.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char place[] = "/tmp/test_userns.XXXXXX";

static void put(const char *name, const char *value)
{
    char path[PATH_MAX];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", place, name);
    unlink(path);
    if (!value)
        return;
    file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%s\n", value);
    fclose(file);
}

static int set_up(void **state)
{
    char path[PATH_MAX];

    (void)state;
    if (!mkdtemp(place))
        return -1;
    snprintf(path, sizeof(path), "%s/user", place);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/kernel", place);
    return mkdir(path, 0700);
}

static int tear_down(void **state)
{
    char path[PATH_MAX];

    (void)state;
    put("user/max_user_namespaces", NULL);
    put("kernel/unprivileged_userns_clone", NULL);
    put("kernel/apparmor_restrict_unprivileged_userns", NULL);
    snprintf(path, sizeof(path), "%s/user", place);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/kernel", place);
    rmdir(path);
    return rmdir(place);
}

static void assert_says(int error, const char *word)
{
    const char *hint = userns_hint_at(error, place);

    assert_non_null(hint);
    if (!strstr(hint, word))
        fail_msg("errno %d: \"%s\" does not say \"%s\"", error, hint, word);
    assert_true(strlen(hint) < sizeof(((struct failure *)0)->hint)); /* not cut there */
}

static void test_each_restriction_names_its_sysctl(void **state)
{
    (void)state;
    put("user/max_user_namespaces", "0");
    assert_says(ENOSPC, "sysctl user.max_user_namespaces=");
    put("user/max_user_namespaces", "15000");
    assert_says(ENOSPC, "nested");

    assert_says(EPERM, "seccomp");
    put("kernel/apparmor_restrict_unprivileged_userns", "0");
    assert_says(EPERM, "seccomp");
    put("kernel/apparmor_restrict_unprivileged_userns", "1");
    assert_says(EPERM, "sysctl kernel.apparmor_restrict_unprivileged_userns=0");
    assert_says(EACCES, "AppArmor");
    put("kernel/unprivileged_userns_clone", "1");
    assert_says(EPERM, "AppArmor");
    put("kernel/unprivileged_userns_clone", "0");
    assert_says(EPERM, "sysctl kernel.unprivileged_userns_clone=1");

    assert_says(EINVAL, "CONFIG_USER_NS");
    assert_says(EUSERS, "32 deep");
    assert_null(userns_hint_at(ENOMEM, place));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_restriction_names_its_sysctl),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
