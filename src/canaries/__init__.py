"""Markets whose answer is known: what training must learn there, and what it must not."""
