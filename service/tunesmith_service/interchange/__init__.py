"""A study's trials in other programs' own formats, and theirs here: each module speaks to a service through
`study_handle`, as any client does, and imports the other program's package where it is used.

`optuna_export` and `optuna_import` (a storage: URL or journal file), `mlflow_runs` (parent run and children),
`wandb_runs` (offline runs), `jsonl` (a trial with its whole curve a line). Event files of TensorBoard are in
`cli.event_files`, tables in `sheet_files`.
"""
