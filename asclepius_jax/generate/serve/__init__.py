"""`asclepius serve`: OpenAI's chat completions over HTTP, answered by the engine of this process."""
