# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/compare is made of.

    options.py    the command line, the programs, what is there and what is missing
    outside.py    the first process: namespaces, supervision, signals
    world.py      the network the measurements happen in: host, remote, delayed link, guests, servers
    programs.py   how each kind of program is started, and what it cannot do
    scenarios.py  every scenario: where the client and the server are, the load, the figures
    iperf3.py     another load: its command lines and its result
    measure.py    one measurement: checks before, load, counters, checks after
    rounds.py     interleaving, time budget, progress
    figures.py    medians, ratios, distributions: pure functions
    report.py     JSON, schema, tables
    plots.py      gnuplot
"""
