"""The settings of an output directory's last `lth run`, kept in it, so that commands take the folder in place of a config."""

import yaml

from ..config import LAST_RUN, Config
from ..files import write_note
from .journal import LOCK, is_locked

_HEADER = "# The settings of the last `lth run` in this folder. Commands that take a config take the folder too.\n"


def record_config(config: Config) -> None:
    """Keep the settings that were given in `last-run.yaml` of the output directory, unless another command is at work there."""
    fields = config.model_dump(mode="json", exclude_unset=True)
    text = _HEADER + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    if not is_locked(config.output_dir / LOCK):
        write_note(config.output_dir / LAST_RUN, text)
