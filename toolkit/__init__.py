"""The parts that recipes are made of. Imports nothing from recipes or export."""

import sys
import warnings

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:  # while `python -m` looks for its module, which takes seconds
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if _module.partition(".")[0] in ("recipes", "toolkit", "export"):  # others tidy up in their own way
        from toolkit.commandline.startup import while_starting

        while_starting()
