"""What generates text: a chat endpoint, or rules."""
