"""Export tables and queries from BigQuery."""
