"""The files of a run: written while it trains (checkpoints, energy, figures), and read again afterwards."""
