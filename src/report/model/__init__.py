"""The sections of report.json as types: `report` has the whole, the other modules its sections."""
