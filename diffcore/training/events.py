"""The events of a run, which plugins and loggers receive.

A plugin or logger that raises an exception is reported once and receives no more events.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pluggy import PluginManager

from diffcore.errors import RAISED_BY_PLUGINS, first_line
from diffcore.plugins.output import Logger, Metric
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.runs.model import build_additions

log = logging.getLogger(__name__)


def start_loggers(
    registry: Registry, modality: str, chosen: Mapping[str, Settings], run: Path, settings: Mapping[str, Any]
) -> dict[str, Logger]:
    """Return the chosen loggers of the run in the folder `run`, by name, without those that fail to start."""
    loggers: dict[str, Logger] = {}
    for name, options in chosen.items():
        try:
            loggers |= build_additions(registry, "loggers", modality, {name: options}, run, settings)
        except RAISED_BY_PLUGINS as error:  # a plugin may raise anything
            log.warning(f"the logger {name} failed to start and is left out: {first_line(error)}")
    return loggers


class Events:
    """Sends the events of the run in the folder `run` to plugins and loggers. Their exceptions do not end the run.

    If several processes train, the leader alone passes `plugins` and `loggers`; the others pass None and an empty dict.
    """

    def __init__(self, run: Path, plugins: PluginManager | None, loggers: Mapping[str, Logger]) -> None:
        self._run = run
        self._manager = plugins
        self._loggers = dict(loggers)

    def started(self, settings: Mapping[str, Any], step: int) -> None:
        """Training begins or continues at `step`."""
        self._plugins("started", settings=settings, step=step)

    def logged(self, row: Mapping[str, float]) -> None:
        """A line of train_log.jsonl was written."""
        self._each_logger(lambda logger: logger.row(row))
        self._plugins("logged", row=row)

    def sampled(self, step: int, path: Path) -> None:
        """A picture of samples was written."""
        self._each_logger(lambda logger: logger.picture(step, path))
        self._plugins("sampled", step=step, path=path)

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint was written."""
        self._plugins("saved", step=step, path=path)

    def metrics(self, step: int, metrics: Sequence[Metric]) -> None:
        """The model was evaluated."""
        self._each_logger(lambda logger: logger.metrics(step, metrics))

    def ended(self, step: int, error: BaseException | None = None) -> None:
        """Training ended, with an exception if `error` is one. Only metrics may follow."""
        self._plugins("ended", step=step, error=error)

    def close(self) -> None:
        """Close the loggers. No event may follow."""
        self._each_logger(lambda logger: logger.close())

    def _plugins(self, event: str, **values: Any) -> None:
        """Call the hook of one plugin at a time, so that one that fails is known and the others are still called."""
        if self._manager is None:
            return
        name, plugins = f"diffcore_run_{event}", self._manager.get_plugins()
        for plugin in [found.plugin for found in getattr(self._manager.hook, name).get_hookimpls()]:
            call = self._manager.subset_hook_caller(name, plugins - {plugin})
            try:
                call(run=self._run, **values)
            except RAISED_BY_PLUGINS as error:  # a plugin may raise anything
                failed = self._manager.get_name(plugin)
                log.warning(f"the plugin {failed} failed and receives no more events: {first_line(error)}")
                self._manager.unregister(plugin)

    def _each_logger(self, send: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                send(logger)
            except RAISED_BY_PLUGINS as error:  # a plugin may raise anything
                log.warning(f"the logger {name} failed and receives no more events: {first_line(error)}")
                del self._loggers[name]
