"""What a person sees of an experiment: progress, tables, plots."""
