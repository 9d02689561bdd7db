"""Numbers about a model, and answers from one."""
