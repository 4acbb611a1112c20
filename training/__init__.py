"""Loss, loop and records of training; the top package but for main.py."""
