"""Loss scaling for fp16: torch's GradScaler as a fastai callback, on any device."""

import torch
from fastai.callback.core import Callback, CancelStepException


class LossScaler(Callback):
    """torch's GradScaler around the optimiser step, on any device: what fp16 gradients need.

    Overflow is not a fault: that step is skipped and the scale is halved. A fused optimiser skips the step on the
    device, and a schedule counts it; any other optimiser makes the host wait for the gradients at each step. fastai's
    own scaler lives in a MixedPrecision callback that is tied to CUDA. Callbacks of a higher order (gradient clipping)
    see unscaled gradients.

    init_scale: 256. At torch's 65536 the first gradients of a new head on pretrained weights overflow, which cost a
    short run 5 of its steps. At 256 nothing is lost, neither those gradients nor those of a loss of 4e-5 (LOG.md,
    26 Nov 2026).
    """

    order, run_valid = 10, False

    def __init__(self, init_scale: float = 2.0**8):
        self.init_scale = init_scale

    def before_fit(self) -> None:
        self.scaler = torch.amp.GradScaler(self.dls.device.type, self.init_scale)

    def before_backward(self) -> None:
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        self.overflow = True
        self.scaler.unscale_(self)
        self.scaler.step(self)  # calls self.step(), unless it waited and found a gradient that is not finite
        if self.overflow:
            raise CancelStepException()

    def after_step(self) -> None:
        self.scaler.update()
        if self._step_supports_amp_scaling:
            del self.opt.opt.found_inf

    @property
    def param_groups(self) -> list[dict]:
        "GradScaler asks this of the optimiser it steps, here this callback. fastai's own list takes a millisecond."
        return self.opt.opt.param_groups

    @property
    def _step_supports_amp_scaling(self) -> bool:
        "GradScaler asks this too. If true, GradScaler stores in `found_inf` whether any gradient is not finite."
        return bool(self.opt.opt.param_groups[0].get("fused"))

    def step(self, *_: object) -> None:
        self.overflow = False
        if self._step_supports_amp_scaling:
            self.opt.opt.found_inf = self.found_inf
