"""Train the rows of the paper's tables and report how they compare.

:mod:`.plan` says which runs train the requested rows, :mod:`.execute` trains
them, :mod:`.ledger` keeps what is known of each run, and :mod:`.html_report`
shows it. ``tools/reproduce.py`` goes through these four steps.

It is part of the installed package because people compare the attentions on
their own data (``--data``) from ``pip install``, without a clone, and because
jobs on other machines import it.
"""
