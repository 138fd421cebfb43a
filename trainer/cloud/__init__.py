"""Local files and Google Cloud Storage behind one interface."""
