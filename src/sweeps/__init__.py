"""Many settings tried on the validation sessions, and the best of them put to the test."""
