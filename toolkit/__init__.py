"""The parts that recipes are made of. Imports nothing from recipes or export."""

import os
import warnings

from toolkit.commandline.names import started_module
from toolkit.commandline.startup import while_starting

# On a CPU torch computes in OpenMP's threads. Those that wait for work turn in a loop 300,000 times by default, and so
# take the cores from the processes that load photos. Asleep at once they would be slow to wake, which small steps feel.
# libgomp reads the variable when torch is imported. What is set stays.
SPINS = "10000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

if (started_module() or "").partition(".")[0] in ("recipes", "toolkit", "export"):  # whose imports take seconds
    while_starting()
