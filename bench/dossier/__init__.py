"""What a maker of devices files: components, hazards, anomalies, evidence and the model card, and what changed."""
