"""The core's own parts, offered through the same hooks as those of plugins: one module for each hook."""

from diffcore.plugins.builtin.commands import diffcore_commands
from diffcore.plugins.builtin.export_formats import diffcore_export_formats
from diffcore.plugins.builtin.guidance import diffcore_guidance
from diffcore.plugins.builtin.loggers import diffcore_loggers
from diffcore.plugins.builtin.schedules import diffcore_schedules
from diffcore.plugins.builtin.solvers import diffcore_solvers
from diffcore.plugins.builtin.tasks import diffcore_tasks
from diffcore.plugins.builtin.text_encoders import diffcore_text_encoders
from diffcore.plugins.records import API_VERSION

__all__ = [
    "API_VERSION",
    "diffcore_commands",
    "diffcore_export_formats",
    "diffcore_guidance",
    "diffcore_loggers",
    "diffcore_schedules",
    "diffcore_solvers",
    "diffcore_tasks",
    "diffcore_text_encoders",
]
