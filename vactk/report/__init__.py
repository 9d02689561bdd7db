"""Reports of runs and evaluations, from the files in their folders: predictions, numbers, charts, one HTML page."""
