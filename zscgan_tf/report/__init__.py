"""What people read of runs: summaries, pages, result files, tables, figures."""
