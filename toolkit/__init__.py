"""The parts that recipes are made of. Imports nothing from recipes or export."""

import os
import warnings

from toolkit.commandline.names import started_module
from toolkit.commandline.startup import while_starting

# OpenMP's threads, torch's on a CPU, wait asleep: spinning, they take the cores from the processes that load photos.
# Read when torch is imported. A value that is set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

if (started_module() or "").partition(".")[0] in ("recipes", "toolkit", "export"):  # whose imports take seconds
    while_starting()
