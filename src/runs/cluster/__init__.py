"""Tasks of a run on Ray: a connection, an executor for the run's process, and what a node does."""
