"""What watches over a run, and what tells of it."""
