"""How fast the project trains and predicts, and with how much memory."""
