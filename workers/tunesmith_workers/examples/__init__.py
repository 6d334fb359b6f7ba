"""Task files that a person can run, such as `tunesmith up --tasks digits_keras.py`; see docs/frameworks.md."""
