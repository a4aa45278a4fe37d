"""How good and how faithful a model's answers and its training notes are; what was measured, and how sure that is."""
