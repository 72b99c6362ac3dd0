"""Weights & Biases, as its own environment says: WANDB_MODE, WANDB_PROJECT, WANDB_DIR; logging in is `wandb login`."""

import os
import sys
from pathlib import Path

import wandb
from wandb.errors import CommError, Error, UsageError

from toolkit.loggers.base import Mistake, line, options
from toolkit.run import Run

WAIT = 600  # seconds to go on sending after the end where the network is slow or away; then TimeoutError


class Logger:
    faults = (Error,)

    def folder(self) -> Path:
        return Path(os.environ.get("WANDB_DIR", ""), "wandb")

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        self.recipe, self.epochs = run.recipe["recipe"], epochs
        try:
            self.run = self._begin(run, id)
        except UsageError as error:
            raise ValueError(f"--log wandb: {line(error)}; run `wandb login`, or set WANDB_MODE=offline") from None
        except CommError as error:
            if id is None:
                raise ValueError(
                    f"--log wandb: {line(error)}; set WANDB_MODE=offline, `wandb sync` sends it later"
                ) from None
            print(f"--log wandb: {line(error)}; going on offline, `wandb sync` sends it later", file=sys.stderr)
            wandb.teardown()  # its service still holds the id
            self.run = self._begin(run, id, "offline")
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        print(f"wandb        {self.run.sync_dir if self.run.offline else self.run.url}", flush=True)
        return self.run.id

    def _begin(self, run: Run, id: str | None, mode: str | None = None) -> wandb.Run:
        return wandb.init(
            id=id,
            name=run.folder.name,
            config=options(run),
            resume="allow",
            reinit="create_new",  # beside one that a notebook may have
            force=True,  # logged in, or an error
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, finish_timeout=WAIT, finish_timeout_raises=True),
            allow_val_change=True,
        )

    def curves(self, rows: dict[int, dict[str, float]]) -> None:
        sent = max(self.epochs, int(self.run.summary.get("epoch", 0)))  # as the server knows, where a kill came between
        for epoch, row in rows.items():
            if epoch > sent:
                self.run.log({"epoch": epoch, **row})

    def results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        for name, value in figures.items():
            self.run.summary[f"best/{name}"] = value
        if wrong:
            images = [wandb.Image(mistake.pixels, caption=mistake.caption) for mistake in wrong]
            self.run.log({"epoch": epoch, "mistakes": images})
        if model:
            artifact = wandb.Artifact(f"{self.recipe}-{self.run.id}", type="model", metadata=figures)
            artifact.add_file(str(model))
            self.run.log_artifact(artifact)

    def close(self, status: str) -> None:
        self.run.finish(exit_code={"FINISHED": 0, "KILLED": 130}.get(status, 1))
