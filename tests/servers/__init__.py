"""Real servers for tests, each started once per test process and ended with it."""
