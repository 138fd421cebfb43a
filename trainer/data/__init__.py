"""Read files into a typed DataFrame and split its rows."""
