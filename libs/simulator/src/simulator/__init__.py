"""An OpenAI-compatible model simulator: latency, streams and faults on demand, every attempt on record."""
