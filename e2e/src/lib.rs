//! What only tests, benches and the demo run.
