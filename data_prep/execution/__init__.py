"""How a stage runs: processes, and the line that shows how far it is."""
