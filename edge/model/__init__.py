"""What a bundle says."""
