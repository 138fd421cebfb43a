"""Measurements of speed and quality: `fab bench`. They print tables and prove nothing by themselves."""
