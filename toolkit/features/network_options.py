"""The options of `toolkit.check --features`, read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.files import target_of
from toolkit.ranges import check_ranges


@dataclass(frozen=True)
class NetworkOptions:
    "The network that looks at the photos with --features, and the files that its doubts are written to."

    features: bool = False  # let a network look too: near-duplicates, wrong labels, odd ones out
    arch: str = "mobilenetv2_100"  # timm classifier whose features are compared
    weights: str = "imagenet"  # its pretrained weights: imagenet (from the hub or its cache), or a file
    image_size: int = 128  # side of the square that it sees, in pixels
    device: str = "auto"  # auto, cuda or cpu
    csv: Path | None = None  # file for one row per doubtful photo; edited, a recipe takes it as --without
    page: Path | None = None  # file for an HTML page of the doubtful photos

    def checked(self) -> dict[str, Any] | None:
        """Return the arguments of `seen_by`; None without --features.

        Raises ValueError for --csv or --page without --features, for --weights none and an impossible size;
        FileNotFoundError for a missing file of weights; as `target_of` does for --csv and --page.
        """
        if not self.features:
            if given := [f"--{name}" for name in ("csv", "page") if getattr(self, name)]:
                raise ValueError(f"{given[0]} holds what features show: give --features too")
            return None
        for file in filter(None, (self.csv, self.page)):
            target_of(file)
        check_ranges({"image_size": self.image_size})
        if self.weights == "none":
            raise ValueError("--weights none: random weights tell nothing; give imagenet, or a file")
        if self.weights != "imagenet" and not Path(self.weights).is_file():
            raise FileNotFoundError(
                f"--weights {self.weights}: no such file; it takes imagenet, or a .pth or .safetensors file"
            )
        return {name: getattr(self, name) for name in ("arch", "weights", "image_size", "device")}
