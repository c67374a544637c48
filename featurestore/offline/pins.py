"""What one retrieval reads: each log at the version, and each view with the cuts, that it found when it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from featurestore.definitions import FeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.offline.log import RowLog
from featurestore.semantics.rows import Cut


class Pins:
    """Logs and cuts as of now, or as of the versions and cuts given, whatever is written later.

    Parameters
    ----------
    views
        The stored views of the request.
    log_of, cuts_of
        The log and the cuts of a view, as they are now.
    versions
        By row fingerprint, the version of a log to read instead of the newest.

    Attributes
    ----------
    versions
        By row fingerprint, the version that is read; -1 for a log that does not exist.
    """

    def __init__(
        self,
        views: Iterable[FeatureView],
        log_of: Callable[[FeatureView], RowLog],
        cuts_of: Callable[[FeatureView], Sequence[Cut]],
        versions: dict[str, int] | None = None,
    ) -> None:
        self.versions = dict(versions or {})
        self._logs: dict[str, RowLog] = {}
        self._cuts: dict[str, list[Cut]] = {}
        for view in views:
            log = log_of(view)
            version = self.versions.setdefault(log.fingerprint, log.version())
            self._logs[log.fingerprint] = log.at(version)
            self._cuts[view.name] = list(cuts_of(view))

    def log(self, view: FeatureView) -> RowLog:
        """Return the log of a view at its pinned version."""
        return self._logs[row_fingerprint(view)]

    def cuts(self, view: FeatureView) -> list[Cut]:
        """Return the cuts of a view that were recorded by then."""
        return self._cuts[view.name]
