"""Files among the photos of a data set that are not read, so that nobody trains on a part of it unawares."""

from collections.abc import Iterator

from toolkit.data.checks.findings import Finding, counted
from toolkit.data.dataset import DataSet
from toolkit.data.on_disk.labels_csv import SPLITS
from toolkit.data.on_disk.layouts import is_split
from toolkit.data.on_disk.photo_files import by_kind, other_files


def files_not_read(data: DataSet) -> Iterator[Finding]:
    """A warning of the files in class folders and in test/ that are not read: photos in a format that we can't read,
    links that lead nowhere. A CSV names its files, so it has none.
    """
    root = data.path
    names = other_files(root) if root.is_dir() else []
    if is_split(root):
        inside = [name.split("/") for name in names]
        names = ["/".join(path) for path in inside if path[0] in SPLITS and len(path) > (1 if path[0] == "test" else 2)]
    else:
        names = [name for name in names if "/" in name]
    if names:
        text = f"{counted(names, 'file', 'files')} among the photos not read ({by_kind(root, names)})"
        yield Finding("warning", "other_files", text, names, [{"file": name} for name in names])
