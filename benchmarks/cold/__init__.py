"""What the measurement of cold starts is made of."""
