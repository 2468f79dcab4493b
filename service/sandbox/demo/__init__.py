"""`logwarden demo`: an organisation, its events, and the proof that each log group ended as it must."""
