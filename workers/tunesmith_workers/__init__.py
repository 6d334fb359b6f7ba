"""The workers: one supervisor per machine, one trainer child per slot."""
