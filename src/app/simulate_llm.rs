//! `qaflow simulate-llm`: an OpenAI-compatible server with slots, latency and faults, for rehearsals and tests.
