"""Train the rows of the paper's tables and report how they compare.

:mod:`.plan` says which runs train the requested rows, :mod:`.execute` trains
them here and :mod:`.slurm` on a cluster, :mod:`.ledger` keeps what is known of each
run, and :mod:`.html_report` shows it. ``tools/reproduce.py`` goes through these steps.

It lies beside the tools and configs, in a clone and in ``ra_mm/.mim`` of a wheel.
"""
