"""Teachers, which generate text: a chat endpoint, or offline rules."""
