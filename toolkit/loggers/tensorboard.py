"""Logs to TensorBoard: event files in the run folder. `tensorboard --logdir runs` shows every run below `runs`.

TensorBoard stores no files, so model.onnx is only in the run folder.
"""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from toolkit.loggers.logger import Mistake, hyperparameters
from toolkit.run import Run


class Logger:
    def folder(self) -> None:
        return None

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        self.options = {name: str(value) for name, value in hyperparameters(run).items()}
        # TensorBoard drops later epochs, which a killed process may have written before it updated log.json
        purge = None if id is None else epochs + 1
        self.writer = SummaryWriter(str(run.path("tensorboard")), purge_step=purge)
        table = [f"| {name} | {value} |" for name, value in self.options.items()]
        self.writer.add_text("options", "\n".join(["| option | value |", "|---|---|", *table]), epochs)
        self.writer.flush()
        return "tensorboard"

    def log_epochs(self, rows: dict[int, dict[str, float]]) -> None:
        for epoch, row in rows.items():
            for name, value in row.items():
                self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def log_results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        figures = {f"best/{name}": value for name, value in figures.items()}
        self.writer.add_hparams(self.options, figures, run_name=".", global_step=epoch)  # "." is the same folder
        for mistake in wrong:
            self.writer.add_image(f"mistakes/{mistake.caption}", mistake.pixels, epoch, dataformats="HWC")
        self.writer.flush()

    def close(self, status: str) -> None:
        self.writer.close()
