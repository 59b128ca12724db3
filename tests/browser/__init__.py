"""Pages driven in a real headless Chromium: `make nightly`, which needs it installed."""
