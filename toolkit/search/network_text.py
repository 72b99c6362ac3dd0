"""The words of `--arch auto`: the table of compared networks, and the weights worth fetching."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from toolkit.models.at_hand import Choice, hub_cache
from toolkit.models.catalogue import Network, by_accuracy
from toolkit.search.network_time import SHARE, Budget


@dataclass(frozen=True)
class Compared:
    "A network that was compared."

    name: str
    weights: str
    licence: str | None
    accuracy: float  # of linear probes, on held-out training photos
    error: float  # its standard error
    seconds: float  # that comparing it took
    training: float  # seconds that training is expected to take: of the planned epochs, with --minutes of the least


def print_compared(compared: list[Compared], chosen: Compared, found: Choice, budget: Budget) -> None:
    "Print a row for each network that was compared, then those left out, those worth fetching and the choice."
    ranked = sorted(compared, key=lambda each: each.accuracy, reverse=True)
    width = max(len(each.name) for each in compared)
    print(f"{'--arch auto':{width}}  held-out accuracy  compared in  training  licence")
    for each in ranked:
        accuracy = f"{100 * each.accuracy:.1f} +- {100 * each.error:.1f} %"
        seconds = f"{each.seconds:9.1f} s  {each.training:6.0f} s"
        print(f"{each.name:{width}}  {accuracy:>17}  {seconds}  {each.licence or 'not known'}")
    for name, fault in found.left_out.items():
        print(f"left out: {name}, {fault}")
    if better := worth_fetching(found.missing, budget, published(found, compared)):
        print(f"worth fetching: {in_words(better)}; --fetch {len(better)} downloads them")
    best = ranked[0]
    why = "the most accurate" if chosen is best else f"the fastest within a standard error of {best.name}"
    print(f"--arch auto: {chosen.name}, {why}; {budget.spent():.1f} s for the comparison", flush=True)


def published(found: Choice, compared: list[Compared]) -> float:
    "Return the highest published accuracy of the networks that were compared."
    names = {each.name for each in compared}
    return max((by_accuracy(each.network) for each in found.candidates if each.name in names), default=0.0)


def worth_fetching(missing: list[Network], budget: Budget, best: float = 0.0, count: int = 3) -> list[Network]:
    "Return the networks, at most `count`, with the highest published accuracy above `best` that there is time for."
    better = [each for each in missing if by_accuracy(each) > best and budget.fits(each)]
    return sorted(better, key=by_accuracy, reverse=True)[:count]


def in_words(networks: list[Network]) -> str:
    "Their repositories on the hub, with the published accuracy."
    return ", ".join(f"{each.repository} ({each.accuracy:.1f} % of ImageNet)" for each in networks)


def nothing_to_compare(weights: str, found: Choice, budget: Budget) -> str:
    "Return the message for no network that could be compared. A fault that several have is the message."
    least, name = budget.shortest or (0.0, "")
    if found.candidates and budget.seconds is not None and least > (1 - SHARE) * budget.seconds:
        need = max(budget.spent() / SHARE, least / (1 - SHARE)) / 60
        return f"--arch auto --minutes {budget.minutes:g}: too little for any network; {name} needs about {need:.2g}"
    faults = Counter(found.left_out.get(each.name, "") for each in found.candidates).most_common(1)
    if faults and (faults[0][1] > 1 or len(found.candidates) == 1):  # of the data or the options
        return faults[0][0]
    faults = "; ".join(f"{name}: {fault}" for name, fault in list(found.left_out.items())[:2])
    where = "the hub cache " + hub_cache() if weights == "imagenet" else str(Path(weights))
    message = f"--arch auto: no network to compare in {where}" + (f" ({faults})" if faults else "")
    if better := worth_fetching(found.missing, budget):
        return f"{message}\nworth fetching: {in_words(better)}; give --fetch {len(better)}, or --arch NAME"
    return f"{message}; give a folder of <timm's name>.safetensors or .pth files, or --arch NAME"
