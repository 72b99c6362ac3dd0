"""Logs to Weights & Biases, configured by its own variables: WANDB_MODE, WANDB_PROJECT, WANDB_DIR, `wandb login`."""

import os
import sys
from pathlib import Path

import wandb
from wandb.errors import CommError, UsageError

from toolkit.loggers.logger import Mistake, hyperparameters, short_reason
from toolkit.run import Run

WAIT = 600  # seconds to keep sending after the end if the network is slow or down; then TimeoutError


class Logger:
    def folder(self) -> Path:
        return Path(os.environ.get("WANDB_DIR", ""), "wandb")

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        self.recipe, self.epochs = run.recipe["recipe"], epochs
        try:
            self.run = self._start(run, id)
        except UsageError as error:
            raise ValueError(
                f"--log wandb: {short_reason(error)}; run `wandb login`, or set WANDB_MODE=offline"
            ) from None
        except CommError as error:
            if id is None:
                raise ValueError(
                    f"--log wandb: {short_reason(error)}; set WANDB_MODE=offline, `wandb sync` sends it later"
                ) from None
            print(
                f"--log wandb: {short_reason(error)}; continuing offline, `wandb sync` sends it later", file=sys.stderr
            )
            wandb.teardown()  # its service still has the id open
            self.run = self._start(run, id, "offline")
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        print(f"wandb        {self.run.sync_dir if self.run.offline else self.run.url}", flush=True)
        return self.run.id

    def _start(self, run: Run, id: str | None, mode: str | None = None) -> wandb.Run:
        return wandb.init(
            id=id,
            name=run.folder.name,
            config=hyperparameters(run),
            resume="allow",
            reinit="create_new",  # a notebook may have another run open
            force=True,  # raises if not logged in
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, finish_timeout=WAIT, finish_timeout_raises=True),
            allow_val_change=True,
        )

    def log_epochs(self, rows: dict[int, dict[str, float]]) -> None:
        # the server may know of more epochs than log.json, after a kill
        sent = max(self.epochs, int(self.run.summary.get("epoch", 0)))
        for epoch, row in rows.items():
            if epoch > sent:
                self.run.log({"epoch": epoch, **row})

    def log_results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
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
