"""How good a prediction is: measures, tables and pictures."""
