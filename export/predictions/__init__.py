"""Photos -> a table of predictions on one machine: inputs, columns, file formats, resuming."""
