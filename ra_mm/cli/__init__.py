"""Building blocks of the command line tools: arguments, config and runner, failures."""

from .arguments import OptionsAction, add_cfg_options, get_parser, positive_int
from .failures import report_user_errors
from .launch import build_runner, load_config

__all__ = [
    'OptionsAction',
    'add_cfg_options',
    'build_runner',
    'get_parser',
    'load_config',
    'positive_int',
    'report_user_errors',
]
