"""Photos on disk -> batches: data sets, decoding, augmentation, preprocessing, data loaders, and their checks."""
