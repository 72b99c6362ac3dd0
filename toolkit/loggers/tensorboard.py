"""TensorBoard's event files, in the run folder: `tensorboard --logdir runs` shows every run below it.

TensorBoard keeps no files, so model.onnx is not in them; it lies beside.
"""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from toolkit.loggers.base import Mistake, options
from toolkit.run import Run


class Logger:
    faults = ()

    def folder(self) -> None:
        return None

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        self.options = {name: str(value) for name, value in options(run).items()}
        # readers drop what an earlier process had written of a later epoch: a kill came before log.json said so
        purge = None if id is None else epochs + 1
        self.writer = SummaryWriter(str(run.path("tensorboard")), purge_step=purge)
        table = [f"| {name} | {value} |" for name, value in self.options.items()]
        self.writer.add_text("options", "\n".join(["| option | value |", "|---|---|", *table]), epochs)
        self.writer.flush()
        return "tensorboard"

    def curves(self, rows: dict[int, dict[str, float]]) -> None:
        for epoch, row in rows.items():
            for name, value in row.items():
                self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        figures = {f"best/{name}": value for name, value in figures.items()}
        self.writer.add_hparams(self.options, figures, run_name=".", global_step=epoch)  # "." is this very folder
        for mistake in wrong:
            self.writer.add_image(f"mistakes/{mistake.caption}", mistake.pixels, epoch, dataformats="HWC")
        self.writer.flush()

    def close(self, status: str) -> None:
        self.writer.close()
