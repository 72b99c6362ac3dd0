"""One experiment per file. Imports toolkit first, which keeps fastai quiet while it is imported."""

import toolkit  # noqa: F401
