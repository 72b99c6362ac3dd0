"""Suggestions for a flag or a word that a command does not know."""

import difflib
from collections.abc import Collection

ELSEWHERE = {  # our flags, and what other tools' users type for them
    "--data": "data_dir data_path dataset root",
    "--arch": "model model_name backbone architecture",
    "--weights": "pretrained checkpoint initial_checkpoint",
    "--epochs": "num_epochs n_epochs max_epochs num_train_epochs",
    "--lr": "learning_rate lr0 base_lr",
    "--bs": "batch_size batch b per_device_train_batch_size",
    "--accum": "grad_accum_steps gradient_accumulation_steps accumulate",
    "--image_size": "img_size imgsz input_size img resolution",
    "--workers": "num_workers j dataloader_num_workers",
    "--out": "output output_dir out_dir save_dir",
}


def unknown_flag(name: str, flags: Collection[str], positional: Collection[str]) -> str:
    "Say that the flag `name` is unknown, and which of `flags` or of the positional arguments is meant, if any."
    if ours := _ours(name, flags):
        return f"unknown flag {name}, here it is {ours}"
    if name.lstrip("-") in positional:
        return f"unknown flag {name}, give {name.lstrip('-').upper()} by itself"
    nearest = difflib.get_close_matches("--" + name.lstrip("-"), flags, n=1, cutoff=0.5)
    return f"unknown flag {name}" + (f", the nearest is {nearest[0]}" if nearest else "")


def unknown_words(words: list[str], flags: Collection[str]) -> str:
    "Say that no argument takes `words`, such as `photos` or `epochs=3`, and which of `flags` would."
    text = " ".join(words)
    name, equals, value = text.split()[0].partition("=") if text.strip() else ("", "", "")
    flag = f"--{name}" if f"--{name}" in flags else _ours(name, flags)
    if equals and flag:
        return f"{text}: values are given by flags, here {flag} {value}"
    if text in ("True", "False", "true", "false"):
        return f"{text}: a flag that turns something on or off takes no value, as in --probe or --no-probe"
    if "--data" in flags and len(text.split()) == 1:
        return f"{text}: data is given by its flag, --data {text}"
    return f"unrecognized arguments: {text}"


def _ours(name: str, flags: Collection[str]) -> str | None:
    "Return the flag among `flags` that is called `name` in other tools, or None."
    word = name.lstrip("-").replace("-", "_")
    return next((flag for flag, theirs in ELSEWHERE.items() if flag in flags and word in theirs.split()), None)
