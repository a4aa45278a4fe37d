"""Rules for questions and answers, in one file per task."""
