"""From features to models: training sets, fitted transforms, input pipelines and trainers."""

if not __name__.startswith("featurestore."):
    raise ImportError(
        "'training' is a part of the feature store, not a top-level package: import 'featurestore.training' instead",
        name="training",
    )
