"""The pure domain: what a study is and what its stages plan. Values in, values out."""
