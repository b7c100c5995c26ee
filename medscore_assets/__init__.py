"""MedScore: clinical predictions as Dagster assets."""

import os

# Importing pandera sets this variable to "1", and from then on pyarrow takes every Python time for UTC
# and drops its zone without a word. Set and empty, pandera leaves it alone and pyarrow reads "no".
os.environ["PYARROW_IGNORE_TIMEZONE"] = ""
