"""What is set side by side: trials, studies, or stages of studies, whatever studies they are of."""
