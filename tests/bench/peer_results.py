"The last step of `peers.py`: runs and the test photos' labels -> results.csv, results.txt and a picture."

import csv
import itertools
from pathlib import Path

import numpy as np

from toolkit.data.dataset import find_data
from toolkit.evaluation.statistics import holm, mcnemar_by_majority, mean_variance, t_test
from toolkit.files import read_json, replacing, write_atomic, write_csv

COLUMNS = "set,method,seed,seconds,epochs,best_epoch,best_valid,last_valid,valid,test,peak_memory_mib".split(",")
COLOURS = {"hw1": "#777777", "fastai": "#1f77b4", "timm": "#9467bd", "rapid": "#d62728"}
BUDGETS = ["#ff7f0e", "#bc8f00", "#8c564b"]  # rapid's with --minutes
Runs = dict[str, list[dict]]  # by method, in the order of the seeds; each as in its file, and `right`


def conclude(sets: list[tuple[Path, Path]], methods: list[str], seeds: int, out: Path) -> None:
    "sets: folder of the runs on a set, and its data. Print what goes to results.txt."
    found = {folder.name: judged(folder, data, methods, seeds) for folder, data in sets}
    write_csv(out / "results.csv", COLUMNS, [row(name, run) for name, runs in found.items() for run in flat(runs)])
    text = "\n\n".join(f"{name}\n{table(runs)}\n\n{pairs(runs)}" for name, runs in found.items()) + "\n"
    write_atomic(out / "results.txt", text)
    draw(found, out / "accuracy.png")
    print(f"\n{text}\n{out / 'results.csv'}, {out / 'results.txt'}, {out / 'accuracy.png'}")


def run_file(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method.replace('/', '_').replace(':', '-')}-{seed}.json"


def judged(folder: Path, data: Path, methods: list[str], seeds: int) -> Runs:
    "The runs on a set, with `right`: float [photos], 1 or 0, of `valid` and of those test photos that have a label."
    photos, labels = find_data(data), labels_of(data)
    truths = {"valid": list(photos.valid.values()), "test": [labels.get(photo.stem) for photo in photos.test.values()]}
    runs = {method: [read_json(run_file(folder, method, seed)) for seed in range(seeds)] for method in methods}
    for run in flat(runs):
        run["right"] = {
            part: np.array([float(a == b) for a, b in zip(run[part], truth, strict=True) if b is not None])
            for part, truth in truths.items()
        }
    return runs


def labels_of(data: Path) -> dict[str, str]:
    "The label of each test photo, by its name without suffix."
    with (data / "test_labels.csv").open(newline="") as file:
        return {Path(name).stem: label for name, label in list(csv.reader(file))[1:]}


def flat(runs: Runs) -> list[dict]:
    return list(itertools.chain.from_iterable(runs.values()))


def figures(run: dict) -> dict[str, float]:
    accuracies = run["accuracies"]
    return {
        "seconds": run["seconds"],
        "epochs": len(accuracies),
        "best_epoch": accuracies.index(max(accuracies)) + 1,
        "best_valid": max(accuracies),
        "last_valid": accuracies[-1],
        "valid": run["right"]["valid"].mean(),
        "test": run["right"]["test"].mean(),
        "peak_memory_mib": run["peak_memory_bytes"] / 2**20,
    }


def row(name: str, run: dict) -> list:
    return [name, run["method"], run["seed"], *(f"{value:.6g}" for value in figures(run).values())]


def table(runs: Runs) -> str:
    "Means over the seeds; after +- the standard deviation."
    lines = [
        f"{'method':<12}{'seconds':>16}{'of hw1':>8}{'test %':>15}{'valid %':>15}{'best epoch %':>14}{'last %':>8}"
        f"{'best':>6}{'epochs':>8}{'MiB':>7}"
    ]
    means = {method: averages(of_method) for method, of_method in runs.items()}
    for method, (mean, spread) in means.items():
        share = f"{mean['seconds'] / means['hw1'][0]['seconds']:.3f}" if "hw1" in means else ""
        lines.append(
            f"{method:<12}{mean['seconds']:>9.1f} +-{spread['seconds']:>5.1f}{share:>8}"
            f"{100 * mean['test']:>8.2f} +-{100 * spread['test']:>5.2f}"
            f"{100 * mean['valid']:>8.2f} +-{100 * spread['valid']:>5.2f}"
            f"{100 * mean['best_valid']:>14.2f}{100 * mean['last_valid']:>8.2f}{mean['best_epoch']:>6.1f}"
            f"{mean['epochs']:>8.1f}{mean['peak_memory_mib']:>7.0f}"
        )
    return "\n".join(lines)


def averages(of_method: list[dict]) -> tuple[dict[str, float], dict[str, float]]:
    "Mean and standard deviation (0 for one seed) of each figure over the seeds."
    columns = {name: [figures(run)[name] for run in of_method] for name in figures(of_method[0])}
    spread = {name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return {name: float(np.mean(values)) for name, values in columns.items()}, spread


def pairs(runs: Runs) -> str:
    "Each pair of methods: accuracy of the second minus the first's, with Student's t and McNemar's test."
    lines, both = [], list(itertools.combinations(runs, 2))
    for part in ("test", "valid") if both else ():
        right = {method: np.stack([run["right"][part] for run in of_method]) for method, of_method in runs.items()}
        tests = [t_test(mean_variance(right[b] - right[a])) for a, b in both]
        corrected = holm(np.array([p for _, _, p in tests]))
        images = next(iter(right.values())).shape[1]
        lines.append(
            f"{part}, {images} photos: difference, its 95 % interval, p, p by Holm; McNemar by majority; seconds"
        )
        for (a, b), (low, high, p), holm_p in zip(both, tests, corrected, strict=True):
            more, less, exact = mcnemar_by_majority(right[b], right[a])
            seconds = [sum(run["seconds"] for run in runs[method]) for method in (a, b)]
            lines.append(
                f"  {f'{b} - {a}':<22}{100 * (right[b] - right[a]).mean():>+7.2f} points ({100 * low:+.2f} to "
                f"{100 * high:+.2f}), p {p:.2g}, Holm {holm_p:.2g}; only {b} {more}, only {a} {less}, p {exact:.2g}; "
                f"{seconds[1] / seconds[0]:.3f} of the seconds"
            )
    return "\n".join(lines)


def draw(found: dict[str, Runs], target: Path) -> None:
    "A panel a set: test accuracy over seconds, mean of the seeds, with bars from the least to the greatest."
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    across = 2 if len(found) == 4 else min(len(found), 3)
    down = -(-len(found) // across)
    figure = Figure(figsize=(max(5 * across, 7), 3.4 * down + 0.7), layout="constrained")
    for number, (name, runs) in enumerate(found.items(), 1):
        axes, budgets = figure.add_subplot(down, across, number), iter(BUDGETS * len(runs))
        for method, of_method in runs.items():
            points(axes, of_method, COLOURS.get(method) or next(budgets), said(method, found))
        axes.set(xscale="log", title=name, xlabel="seconds of training (log scale)", ylabel="test accuracy, %")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2357" else "")
        )
        axes.tick_params(axis="x", which="both", pad=4, length=3)
        axes.grid(alpha=0.25, which="both")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(across + 1, 3), fontsize=9)
    with replacing(target) as beside:
        FigureCanvasAgg(figure).print_figure(beside, dpi=130, format="png")


def bar(values: np.ndarray) -> list[list[float]]:
    "How far the least and the greatest value are from the mean. Rounding may put the mean of equal values beside them."
    return [[max(values.mean() - values.min(), 0.0)], [max(values.max() - values.mean(), 0.0)]]


def points(axes, of_method: list[dict], colour: str, label: str) -> None:
    "A method's mean with its bars, and a small point a seed."
    seconds = np.array([run["seconds"] for run in of_method])
    accuracy = np.array([100 * run["right"]["test"].mean() for run in of_method])
    bars = [bar(each) for each in (seconds, accuracy)]
    place = seconds.mean(), accuracy.mean()
    axes.errorbar(*place, xerr=bars[0], yerr=bars[1], fmt="o", color=colour, capsize=3, label=label)
    axes.plot(seconds, accuracy, ".", color=colour, alpha=0.4, markersize=4)


def said(method: str, found: dict[str, Runs]) -> str:
    "The method in words, with its epochs if they were the same on all sets."
    kind, _, share = method.partition(":")
    words = {"fastai": "fastai's fine_tune", "timm": "timm's train.py", "rapid": "rapid at its defaults"}
    name = f"rapid --minutes, {share} of hw1's time" if share else words.get(kind, kind)
    epochs = {len(run["accuracies"]) for runs in found.values() for run in runs[method]}
    return f"{name}, {epochs.pop()} epochs" if len(epochs) == 1 else name
