/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * completions.c - prints the completions of a shell, made of the option table; runs at build time only
 *
 * Usage: completions bash|zsh|fish
 *
 * What an option takes is found in its row: "([a|b|c]" in the help text are the words that are allowed; an
 * argument PATH, SOCKET or FILE is a file; IPv4 and IPv6 may be an interface. After --run and its options
 * follows a command of its own, which is completed as one; after --ctl and its options one of its commands.
 */
#include "cli/ctl.h"
#include "cli/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { KIND_FLAG, KIND_OTHER, KIND_WORDS, KIND_FILE, KIND_INTERFACE };

enum { WORDS_SIZE = 256 };

/* The allowed words with a blank between them in @words. */
static enum kind kind_of(const struct option_row *row, char words[WORDS_SIZE])
{
    const char *open = strstr(row->help, "(["), *close = open ? strchr(open, ']') : NULL;

    if (!row->argument)
        return KIND_FLAG;
    if (close && close - open - 2 < WORDS_SIZE && strchr(open, '|') && strchr(open, '|') < close) {
        snprintf(words, WORDS_SIZE, "%.*s", (int)(close - open - 2), open + 2);
        for (char *c = words; *c; c++)
            *c = *c == '|' ? ' ' : *c;
        return KIND_WORDS;
    }
    if (strcmp(row->argument, "PATH") == 0 || strcmp(row->argument, "SOCKET") == 0 ||
        strcmp(row->argument, "FILE") == 0)
        return KIND_FILE;
    return strncmp(row->argument, "IPv", 3) == 0 ? KIND_INTERFACE : KIND_OTHER;
}

/* @text with a backslash before each character of @special, and single quotes made fit for '...'. */
static void put_quoted(const char *text, const char *special)
{
    for (; *text; text++) {
        if (*text == '\'')
            printf("'\\''");
        else
            printf("%s%c", strchr(special, *text) ? "\\" : "", *text);
    }
}

/* Calls @put for every row that is not hidden. */
static void each(void (*put)(const struct option_row *row, enum kind kind, const char *words))
{
    const struct option_row *row;

    for (unsigned i = 0; (row = options_row(i)); i++) {
        char words[WORDS_SIZE] = "";
        enum kind kind = kind_of(row, words);

        if (!row->hidden)
            put(row, kind, words);
    }
}

static void put_ctl_commands(void)
{
    const char *name;

    for (unsigned i = 0; (name = ctl_command(i)); i++)
        printf("%s%s", i ? " " : "", name);
}

/* ---- bash ---- */

static void bash_word(const struct option_row *row, enum kind kind, const char *words)
{
    (void)words;
    if (row->short_name)
        printf(" -%c", row->short_name);
    printf(" --%s%s", row->name, kind == KIND_FLAG ? "" : "=");
}

static void bash_taker(const struct option_row *row, enum kind kind, const char *words)
{
    (void)words;
    if (kind != KIND_FLAG && row->short_name)
        printf("-%c | ", row->short_name);
    if (kind != KIND_FLAG)
        printf("--%s | ", row->name);
}

static void bash_value(const struct option_row *row, enum kind kind, const char *words)
{
    if (kind == KIND_FLAG)
        return;
    printf("    ");
    if (row->short_name)
        printf("-%c | ", row->short_name);
    printf("--%s) ", row->name);
    if (kind == KIND_WORDS)
        printf("COMPREPLY=($(compgen -W '%s' -- \"$cur\"))", words);
    else if (kind == KIND_FILE)
        printf("compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\"))");
    else if (kind == KIND_INTERFACE)
        printf("COMPREPLY=($(compgen -W \"$(ls /sys/class/net 2>/dev/null)\" -- \"$cur\"))");
    else
        printf("COMPREPLY=()");
    printf("; return ;;\n");
}

static void print_bash(void)
{
    printf("# bash completion for slirp4netns, made of its option table\n\n"
           "_slirp4netns() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} run='' ctl='' i word\n"
           "    COMPREPLY=()\n\n"
           "    # \"=\" is a word of its own.\n"
           "    if [ \"$cur\" = = ]; then\n"
           "        cur=''\n"
           "    elif [ \"$prev\" = = ]; then\n"
           "        prev=${COMP_WORDS[COMP_CWORD - 2]}\n"
           "    fi\n\n"
           "    # Where does the command of --run or --ctl begin?\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        word=${COMP_WORDS[i]}\n"
           "        case $word in\n"
           "        --run) run=1 ;;\n"
           "        --) i=$((i + 1)) && break ;;\n"
           "        ");
    each(bash_taker);
    printf("'')\n"
           "            [ \"$word\" != --ctl ] || ctl=1\n"
           "            i=$((i + 1))\n"
           "            [ \"${COMP_WORDS[i]}\" != = ] || i=$((i + 1))\n"
           "            ;;\n"
           "        -*) ;;\n"
           "        *) break ;;\n"
           "        esac\n"
           "    done\n"
           "    if [ -n \"$run\" ] && { [ \"$i\" -lt \"$COMP_CWORD\" ] || [[ $cur != -* && $i -eq "
           "$COMP_CWORD ]]; }; "
           "then\n"
           "        if declare -F _command_offset >/dev/null; then\n"
           "            _command_offset \"$i\"\n"
           "        elif [ \"$i\" -eq \"$COMP_CWORD\" ]; then\n"
           "            COMPREPLY=($(compgen -c -- \"$cur\"))\n"
           "        else\n"
           "            COMPREPLY=($(compgen -f -- \"$cur\"))\n"
           "        fi\n"
           "        return\n"
           "    fi\n\n"
           "    case $prev in\n");
    each(bash_value);
    printf("    esac\n"
           "    if [[ $cur == -* ]]; then\n"
           "        COMPREPLY=($(compgen -W '");
    each(bash_word);
    printf("' -- \"$cur\"))\n"
           "        [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null\n"
           "        return\n"
           "    fi\n"
           "    if [ -n \"$ctl\" ]; then\n"
           "        [ \"$i\" -ne \"$COMP_CWORD\" ] || COMPREPLY=($(compgen -W '");
    put_ctl_commands();
    printf("' -- \"$cur\"))\n"
           "        return\n"
           "    fi\n"
           "    COMPREPLY=($(compgen -f -- \"$cur\"))\n"
           "}\n\n"
           "complete -F _slirp4netns slirp4netns\n");
}

/* ---- zsh ---- */

static void zsh_spec(const struct option_row *row, enum kind kind, const char *words)
{
    bool repeatable = strcmp(row->name, "publish") == 0;
    const char *equals = kind == KIND_FLAG ? "" : "=", *plus = kind == KIND_FLAG ? "" : "+";

    printf("    ");
    if (row->short_name && repeatable)
        printf("'*'{-%c%s,--%s%s}", row->short_name, plus, row->name, equals);
    else if (row->short_name)
        printf("'(-%c --%s)'{-%c%s,--%s%s}", row->short_name, row->name, row->short_name, plus, row->name,
               equals);
    else
        printf("'%s--%s%s'", repeatable ? "*" : "", row->name, equals);
    printf("'[");
    put_quoted(row->help, "[]:\\");
    printf("]");
    if (kind != KIND_FLAG)
        printf(":%s:", row->argument);
    if (kind == KIND_WORDS)
        printf("(%s)", words);
    else if (kind == KIND_FILE)
        printf("_files");
    else if (kind == KIND_INTERFACE)
        printf("_net_interfaces");
    printf("'\n");
}

static void print_zsh(void)
{
    printf("#compdef slirp4netns\n"
           "# zsh completion for slirp4netns, made of its option table\n\n"
           "local -a specs\n"
           "specs=(\n");
    each(zsh_spec);
    printf(")\n"
           "if (( ${words[(I)--run]} )); then\n"
           "    specs+=('(-)1:command:_command_names -e' '*::arguments:_normal')\n"
           "elif (( ${words[(I)--ctl*]} )); then\n"
           "    specs+=('1:command:(");
    put_ctl_commands();
    printf(")' '*:argument: ')\n"
           "else\n"
           "    specs+=('1:PID, PATH or FD:{ _pids; _files }' '2:TAPNAME: ')\n"
           "fi\n"
           "_arguments -s -S $specs\n");
}

/* ---- fish ---- */

static void fish_line(const struct option_row *row, enum kind kind, const char *words)
{
    printf("complete -c slirp4netns");
    if (row->short_name)
        printf(" -s %c", row->short_name);
    printf(" -l %s", row->name);
    if (kind == KIND_WORDS)
        printf(" -x -a '%s'", words);
    else if (kind == KIND_FILE)
        printf(" -r -F");
    else if (kind == KIND_INTERFACE)
        printf(" -x -a '(__fish_print_interfaces)'");
    else if (kind == KIND_OTHER)
        printf(" -x");
    printf(" -d '");
    for (const char *c = row->help; *c; c++) /* in '...' fish knows \' and \\ */
        printf("%s%c", *c == '\'' || *c == '\\' ? "\\" : "", *c);
    printf("'\n");
}

static void print_fish(void)
{
    printf("# fish completion for slirp4netns, made of its option table\n\n");
    each(fish_line);
    printf("complete -c slirp4netns -n '__fish_contains_opt run' -x -a '(__fish_complete_subcommand)'\n"
           "complete -c slirp4netns -n '__fish_contains_opt ctl' -x -a '");
    put_ctl_commands();
    printf("'\n");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};

    for (unsigned i = 0; argc == 2 && i < sizeof(shells) / sizeof(shells[0]); i++) {
        if (strcmp(argv[1], shells[i].name) == 0) {
            shells[i].print();
            return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        }
    }
    fprintf(stderr, "usage: %s bash|zsh|fish\n", argv[0]);
    return EXIT_FAILURE;
}
