"""Features and models over the network: the online lookup API and the inference service."""

if not __name__.startswith("featurestore."):
    raise ImportError(
        "'serving' is a part of the feature store, not a top-level package: import 'featurestore.serving' instead",
        name="serving",
    )
