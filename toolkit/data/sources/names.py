"""Names of folders and files for the classes and photos of a table."""

from collections import Counter
from pathlib import PurePosixPath

from toolkit.data.on_disk.photo_files import SUFFIXES

LONGEST = 255  # bytes in the name of a file, on the usual file systems
MAGIC = (  # how files begin, https://en.wikipedia.org/wiki/List_of_file_signatures
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\0\0\0\x0cjP", ".jp2"),
)


class FolderNames:
    "The folder of each class: its name, or class-1, class-2 ... if no folder can have that name beside the others."

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self.taken: set[str] = set()
        self.renamed = False

    def of(self, label: str) -> str:
        "The folder of the class `label`."
        if label not in self.folders:
            folder, number = label, 0
            while not is_name(folder) or folder.casefold() in self.taken:
                number, self.renamed = number + 1, True
                folder = f"class-{number}"
            self.taken.add(folder.casefold())
            self.folders[label] = folder
        return self.folders[label]


class PhotoNames:
    "The name of each photo's file: the last part of its recorded path, or a number if that is no name or is taken."

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.numbers: Counter[str] = Counter()  # of the last numbered photo, by folder

    def of(self, folder: str, recorded: str | None, content: bytes) -> str:
        "The name of the next photo in `folder`."
        name = PurePosixPath((recorded or "").replace("\\", "/")).name
        suffix = PurePosixPath(name).suffix
        if suffix.lower() not in SUFFIXES:
            name, suffix = "", suffix_of(content)
        while not is_name(name) or (folder + name).casefold() in self.taken:
            self.numbers[folder] += 1
            name = f"{self.numbers[folder]}{suffix}"
        self.taken.add((folder + name).casefold())
        return name


def is_name(text: str) -> bool:
    "True if a folder or a file that is not hidden can have the name `text`."
    return bool(text) and text[0] != "." and not {"/", "\\", "\0"} & {*text} and len(text.encode()) <= LONGEST


def suffix_of(content: bytes) -> str:
    "The suffix for a photo by how its file begins; .jpg if that is not known, since photos are read by their content."
    if content[8:12] == b"WEBP":
        return ".webp"
    if content[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    return next((suffix for magic, suffix in MAGIC if content.startswith(magic)), ".jpg")
