"""The command line, on top of the library, training and export: the one place that knows all three."""
