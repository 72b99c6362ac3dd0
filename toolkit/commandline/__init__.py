"""How a signature becomes a command line, and how a command treats signals, closed streams and warnings."""
