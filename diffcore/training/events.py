"""What happens in a run, told to plugins that listen and to loggers. One that fails is said once and told no more."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pluggy import PluginManager

from diffcore.errors import first_line
from diffcore.plugins.output import Logger, Metric
from diffcore.plugins.records import Settings
from diffcore.plugins.registry import Registry
from diffcore.runs.model import build_additions

log = logging.getLogger(__name__)


def begun(
    registry: Registry, modality: str, chosen: Mapping[str, Settings], run: Path, settings: Mapping[str, Any]
) -> dict[str, Logger]:
    """The chosen loggers by name, of the run in the folder `run`; one that cannot begin is said and left out."""
    loggers: dict[str, Logger] = {}
    for name, options in chosen.items():
        try:
            loggers |= build_additions(registry, "loggers", modality, {name: options}, run, settings)
        except Exception as error:  # a stranger's code may raise anything
            log.warning(f"the logger {name} cannot begin and is left out: {first_line(error)}")
    return loggers


class Events:
    """Those who listen to the run in the folder `run`. What they do can slow a run down, but cannot end it.

    `plugins` are told where they are given, as by the one process that writes.
    """

    def __init__(self, run: Path, plugins: PluginManager | None, loggers: Mapping[str, Logger]) -> None:
        self._run = run
        self._manager = plugins
        self._loggers = dict(loggers)

    def started(self, settings: Mapping[str, Any], step: int) -> None:
        """Training begins, or goes on, at `step`."""
        self._plugins("started", settings=settings, step=step)

    def logged(self, row: Mapping[str, float]) -> None:
        """A line of train_log.jsonl."""
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
        """Training ended; nothing but metrics follows."""
        self._plugins("ended", step=step, error=error)

    def close(self) -> None:
        """Nothing follows."""
        self._each_logger(lambda logger: logger.close())

    def _plugins(self, event: str, **told: Any) -> None:
        """Call one plugin at a time, so that one that fails is known and stops nobody."""
        if self._manager is None:
            return
        name, plugins = f"diffcore_run_{event}", self._manager.get_plugins()
        for plugin in [found.plugin for found in getattr(self._manager.hook, name).get_hookimpls()]:
            call = self._manager.subset_hook_caller(name, plugins - {plugin})
            try:
                call(run=self._run, **told)
            except Exception as error:  # a stranger's code may raise anything
                failed = self._manager.get_name(plugin)
                log.warning(f"the plugin {failed} failed and is told no more: {first_line(error)}")
                self._manager.unregister(plugin)

    def _each_logger(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                tell(logger)
            except Exception as error:  # a stranger's code may raise anything
                log.warning(f"the logger {name} failed and is told no more: {first_line(error)}")
                del self._loggers[name]
