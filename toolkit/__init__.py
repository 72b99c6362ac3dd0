"""What recipes are made of. Imports nothing from recipes or export."""

import sys
import warnings

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

if sys.argv[:1] == ["-m"]:  # so while `python -m recipes.hw1` looks for its file, whose imports take seconds
    from toolkit.interrupt import while_starting

    while_starting()
