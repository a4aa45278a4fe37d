"""Work on finished folders: split, audit, compare, release."""
