"""Study files that ship with Tunesmith: `tunesmith study create digits-demo` finds them by name."""
