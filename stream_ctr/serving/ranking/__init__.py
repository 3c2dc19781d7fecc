"""How an arm answers, and what is logged of it."""
