"""Stages 2 and 3: case report to note, note to instruction and answer."""
