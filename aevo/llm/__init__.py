"""Language models behind OpenAI-compatible endpoints: asked, understood, retried, counted."""
