"""Tasks whose right answers are known: what is asked, how answers are read, and how they are scored without a judge."""
