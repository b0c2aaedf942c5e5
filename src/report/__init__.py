"""A run in words, tables and charts: conclusions, the verdict, report.json, the page."""
