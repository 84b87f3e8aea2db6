"""Sessions that outlive the process that serves them: WebSockets in, batches through a model, every step in a store."""
