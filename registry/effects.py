"""What a change of definitions means for stored data."""

from __future__ import annotations

from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.project import Definition, Project, feature_fingerprint, row_fingerprint
from featurestore.definitions.service import FeatureService

PROSE = "description only: nothing is rebuilt"
_BY_VIEWS = "nothing of its own is stored: see the feature views that use it"


def effect_of_adding(new: Definition, applied: Project) -> str:
    """Return what a new definition means for stored data."""
    if isinstance(new, FeatureView):
        return f"new: {_fill(new, applied)}"
    if isinstance(new, OnDemandFeatureView):
        return "computed at request time: nothing is stored"
    return "nothing is stored for it" if isinstance(new, FeatureService) else _BY_VIEWS


def effect_of_removing(old: Definition | None) -> str:
    """Return what the end of a definition means for stored data."""
    if isinstance(old, FeatureView):
        return "no longer written or served; its log and online state are left where they are"
    if isinstance(old, (OnDemandFeatureView, FeatureService)):
        return "no longer served; nothing was stored for it"
    return _BY_VIEWS


def effect_of_changing(old: Definition, new: Definition, applied: Project) -> str:
    """Return what a changed definition means for stored data: nothing, new online state, or a new log."""
    if feature_fingerprint(old) == feature_fingerprint(new):
        return PROSE
    if isinstance(new, FeatureView):
        return _effect_on_view(old, new, applied)
    if isinstance(new, OnDemandFeatureView):
        if isinstance(old, FeatureView):
            return "becomes on-demand: its log and online state are no longer used"
        return "values change from the next request on: it is computed at request time, nothing is rebuilt"
    if isinstance(new, FeatureService):
        return "other features or another order from the next request on; nothing is rebuilt"
    return _BY_VIEWS


def _effect_on_view(old: Definition, new: FeatureView, applied: Project) -> str:
    if not isinstance(old, FeatureView):
        return f"becomes a stored view: {_fill(new, applied)}"
    if row_fingerprint(old) != row_fingerprint(new):
        return f"rows change: {_fill(new, applied)}"
    what = "window state changes" if new.is_window else "state changes"
    return f"{what}: online state will be rebuilt from the log; the log stays"


def _fill(view: FeatureView, applied: Project) -> str:
    """Return where the rows of a view come from that has no state yet."""
    rows = row_fingerprint(view)
    sharing = sorted(other.name for other in applied.feature_views.values() if row_fingerprint(other) == rows)
    if sharing:
        return f"reads the log that {', '.join(sharing)} already writes; its online state is filled from that"
    if view.batch_source is None:
        return "new log, filled as rows arrive from now on"
    return "new log, must be materialized" + (" again" if view.name in applied.feature_views else "")
