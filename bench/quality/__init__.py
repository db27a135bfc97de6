"""How scores follow the truth: accuracy, severity, sessions."""
