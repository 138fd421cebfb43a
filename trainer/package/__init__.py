"""Write packages, read them, and predict with them."""
