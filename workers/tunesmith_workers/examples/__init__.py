"""Task files to run, such as `tunesmith up --tasks digits_keras.py`; see docs/frameworks.md."""
