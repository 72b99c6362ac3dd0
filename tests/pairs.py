"""Rows of options in which every two values that go together meet at least once: a covering array of strength two."""

import itertools
from collections.abc import Iterator

FACTORS = {
    "recipe": ["hw1", "rapid"],
    "--loss": ["ce", "focal", "smoothing"],
    "--class_weights": ["none", "balanced", "effective"],
    "--sampler": ["shuffle", "balanced"],
    "--precision": ["fp32", "bf16", "fp16"],
    "--accum": ["1", "2", "3"],
    "--average": ["none", "ema", "last"],
    "--mixup": ["0", "0.4"],
    "--cutmix": ["0", "1"],
    "--train_sizes": ["32", "24 32"],
    "--cache": ["no", "yes"],
    "--save_every": ["0", "1", "3"],
    "workers": ["0 0", "2 0", "0 2"],  # to begin with, and from then on
}
OF_RAPID = {"--average": "none", "--mixup": "0", "--cutmix": "0", "--train_sizes": "32"}
"Options that hw1 lacks, and the value of rapid's that does nothing."

Row = dict[str, str]


def allowed(row: Row) -> bool:
    "Whether a row, or a part of one, is a command that runs."
    if row.get("recipe") == "hw1" and any(row.get(name, idle) != idle for name, idle in OF_RAPID.items()):
        return False
    return row.get("--sampler") != "balanced" or row.get("--class_weights", "none") == "none"


def pairs_of(row: Row) -> set[tuple]:
    return set(itertools.combinations(row.items(), 2))


def all_pairs() -> set[tuple]:
    "Every two values of two options that go together."
    found = set()
    for (one, values), (other, others) in itertools.combinations(FACTORS.items(), 2):
        found |= {((one, a), (other, b)) for a in values for b in others if allowed({one: a, other: b})}
    return found


def covering_rows() -> Iterator[Row]:
    "Greedily: each row begins with a pair that has not met, and takes for each other option what adds most of them."
    left = all_pairs()
    while left:
        row = dict(min(left))
        for name in sorted(FACTORS, key=lambda name: -len(FACTORS[name])):
            options = [row | {name: value} for value in FACTORS[name] if allowed(row | {name: value})]
            row = row if name in row else max(options, key=lambda one: len(left & pairs_of(in_order(one))))
        row = in_order(row)
        left -= pairs_of(row)
        yield row


def in_order(row: Row) -> Row:
    return {name: row[name] for name in FACTORS if name in row}
