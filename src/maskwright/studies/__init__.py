"""What a paper found, measured again on one's own images."""
