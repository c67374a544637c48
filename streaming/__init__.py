"""From events to both stores: sources, decoding, the apply loop, dead letters and the daemon."""

if not __name__.startswith("featurestore."):
    raise ImportError(
        "'streaming' is a part of the feature store, not a top-level package: import 'featurestore.streaming' instead",
        name="streaming",
    )
