"""Shape annotations of the core are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook(["gnesf_core"], "beartype.beartype")
