"""What hours of faults and load do to the live loop."""
