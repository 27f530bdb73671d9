"""What people read of runs: summaries, result files, tables, grids of images."""
