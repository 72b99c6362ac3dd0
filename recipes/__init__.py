"""One experiment per file. Imports toolkit first, which keeps fastai quiet and sees to Ctrl-C meanwhile."""

import toolkit  # noqa: F401
