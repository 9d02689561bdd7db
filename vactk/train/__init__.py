"""Training: recipes, tasks, the optimiser and the one loop."""
