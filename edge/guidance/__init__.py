"""What a frame shows, and the one hint that follows."""
