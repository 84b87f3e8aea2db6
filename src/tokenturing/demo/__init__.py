"""`make demo`: a small machine learns before your eyes, a shipped one watches a minute, and a page shows it all."""
