"""Reports on a dataset version, made while it is imported: near-duplicates, leakage between splits, personal data."""
