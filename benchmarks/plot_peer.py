#!/usr/bin/env python3
"""Charts of rows measured beside a peer: how many times the peer's speed, median and range of the rounds.

    pip install matplotlib
    benchmarks/plot_peer.py benchmarks/results/peer_lite_amx.csv benchmarks/results/peer_lite_amx.svg

A row of the CSV is round, engine, test, depth, batch, tokens_per_second. The ratio of a round is that of its two
rows, which were measured one after the other; its range shows what the machine did meanwhile.
"""
import argparse
import collections
import csv
import statistics

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.fonttype"] = "none"  # letters stay letters
matplotlib.rcParams["svg.hashsalt"] = "sluice"  # the same picture, the same bytes
from matplotlib import pyplot  # noqa: E402

PEER = "llama.cpp"


def label(test, depth, batch):
    kind, count = test[:2], test[2:]
    words = [f"prompt of {count}" if kind == "pp" else "decode"]
    if depth != "0":
        words.append(f"behind {depth}")
    if batch != "1":
        words.append(f"batch {batch}")
    return ", ".join(words)


def ratios(path):
    """{(label, engine): [ratio of each round]}; a row without a peer's in its round is left out."""
    rounds = collections.defaultdict(dict)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            # Tokens generated differ between engines where one is slow; the speed is what is compared.
            key = (row["test"] if row["test"].startswith("pp") else "tg", row["depth"], row["batch"])
            # The first of a round stands beside the peer's; later ones are of other series.
            rounds[row["round"], key].setdefault(row["engine"], float(row["tokens_per_second"]))
    found = collections.defaultdict(list)
    for (_, key), engines in rounds.items():
        for engine, speed in engines.items():
            if engine != PEER and PEER in engines:
                found[label(*key), engine].append(speed / engines[PEER])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("svg")
    options = parser.parse_args()
    found = ratios(options.csv)
    if not found:
        parser.error(f"{options.csv}: no round has rows of {PEER} and of another engine")
    names = [f"{what}  ({engine.removeprefix('sluice ')}, {len(values)} rounds)" for (what, engine), values in found.items()]
    medians = [statistics.median(values) for values in found.values()]
    spread = [[median - min(values) for median, values in zip(medians, found.values())],
              [max(values) - median for median, values in zip(medians, found.values())]]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.35 * len(names)), layout="constrained")
    bars = axes.barh(names, medians, xerr=spread, color="#4c7fb0", ecolor="#555", capsize=2)
    axes.bar_label(bars, [f"{median:.1f}x" for median in medians], padding=4, label_type="center", color="white")
    axes.axvline(1, color="#b04c4c", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel(f"times the speed of {PEER}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.svg, metadata={"Date": None})


if __name__ == "__main__":
    main()
