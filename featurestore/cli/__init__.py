"""The `featurestore` command."""
