"""Archives: many photographs, scored once each, whatever happens to the processes."""
