"""Models as files for other programs, each checked against the model it was made of."""
