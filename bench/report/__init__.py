"""Results written for people: the summary page and the tables of the docs."""
