"""Reading and writing models: vactk's checkpoints, other projects' files, and their mixtures."""
