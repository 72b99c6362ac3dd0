"""The parts that recipes are made of. Imports nothing from recipes or export."""

import warnings

from toolkit.commandline.names import started_module
from toolkit.commandline.startup import while_starting

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

if (started_module() or "").partition(".")[0] in ("recipes", "toolkit", "export"):  # whose imports take seconds
    while_starting()
