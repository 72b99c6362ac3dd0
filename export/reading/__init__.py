"""Photos read and prepared for a model, by threads or by processes."""
