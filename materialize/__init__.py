"""Batch jobs that read sources and write the same rows to the offline and the online store."""

if not __name__.startswith("featurestore."):
    raise ImportError(
        "'materialize' is a part of the feature store, not a top-level package: "
        "import 'featurestore.materialize' instead",
        name="materialize",
    )
