"""What recipes are made of. Imports nothing from recipes or export."""

import warnings

# fastai 2.8.12 calls torch.jit.script when it is imported, which torch >= 2.14 warns about; the user can do nothing.
# Goes with the first fastai release that does not.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
