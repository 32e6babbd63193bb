"""Imported before the gateway's modules, has this process run them as a gateway does: compiled, where they are.

`FINMAAS_INTERPRETED=1` has them interpreted.
"""

from finmaas_serving import compiled

IS_COMPILED = compiled.install()
