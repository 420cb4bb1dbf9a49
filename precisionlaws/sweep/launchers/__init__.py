"""Where units are executed: one launcher per file."""
