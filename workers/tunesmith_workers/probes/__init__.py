"""What preflight measures, a subject a file. Nothing here judges.

`tunesmith_studies.checks` lists the names of the numbers.
"""
